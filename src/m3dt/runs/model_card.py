"""The model card of a run: `README.md` with the metadata that the Hugging Face Hub reads.

It is written from the entries of the registry and the stored scores, so that a run's folder can be
uploaded as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from m3dt.runs.entries import KINDS, Entry, readable_entries
from m3dt.runs.evaluations import evaluations, newest
from m3dt.tasks import TASKS
from m3dt.tasks.registration import GYMNASIUM
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path

CARD = "README.md"
_MARK = "<!-- Written by m3dt from the registry: another file of this name is left alone. -->"
_BODY = """
# {title}

{mark}

{summary} It was trained with m3dt {version}, which implements multi-task offline
reinforcement learning with mixture-of-experts Decision Transformers
([M3DT](https://arxiv.org/abs/2505.24378)) and its baselines. Weights, prompts and normalisation are
in this folder: to act, it needs no dataset.

```python
import m3dt

if __name__ == "__main__":  # simulators run in separate processes
    agent = m3dt.load("{title}")  # this folder
    print(m3dt.evaluate(agent, tasks="{task}"))
```

## Models

| model | tasks | optimiser steps | trained on |
|---|---|---|---|
{models}
{scores}
## Tasks

{tasks}
{own}"""
_OWN = """
m3dt has no simulator for {tasks}. To play {it}, first import the module that registers {it}.
"""


def write_card(run: Path) -> None:
    """Write a run's card again, from what its folder holds now.

    A license that a person added to the metadata is kept unchanged. A card that a person
    wrote is left alone, and so is a folder without models. A card that cannot be written ends no
    training.
    """
    with suppress(OSError, UserError, UnicodeError, OmegaConfBaseException):
        card = run / CARD
        old = card.read_text("utf-8") if card.is_file() else ""
        entries, _ = readable_entries(run)
        if not entries or (old and _MARK not in old):
            return
        license = re.findall(r"^license(?:_name|_link)?:.*\n", old.partition("\n---\n")[0], re.M)
        text = card_text(run.resolve().name, entries, _results(run, entries), "".join(license))
        if text != old:
            with atomic_path(card) as temporary:
                temporary.write_text(text, "utf-8")


def card_text(
    title: str,
    entries: Sequence[Entry],
    results: Mapping[str, Mapping[str, Any]],
    license: str = "",
) -> str:
    """Return a card.

    Args:
        title: The run's name.
        entries: Its models.
        results: Their scores, as `m3dt evaluate --json` writes them, by the names they act under.
        license: Lines of the metadata about the license of the weights, which only their owner can
            choose; left out by default.
    """
    tasks = list(dict.fromkeys(task for entry in entries for task in entry.tasks))
    newest = entries[-1]
    own = [f"`{task}`" for task in tasks if task not in TASKS and not task.startswith(GYMNASIUM)]
    it = "it" if len(own) == 1 else "them"
    body = _BODY.format(
        title=title,
        mark=_MARK,
        summary=f"An agent for {counted(len(tasks), 'task')}.",
        version=newest.versions.get("m3dt", ""),
        task=tasks[0] if tasks else "TASK",
        models="\n".join(_rows(entries)),
        scores=_scores(results),
        tasks=", ".join(f"`{task}`" for task in tasks),
        own=_OWN.format(tasks=", ".join(own), it=it) if own else "",
    )
    metadata = OmegaConf.to_yaml(OmegaConf.create(_metadata(entries, results)))
    return f"---\n{license}{metadata}---\n{body}"


def _metadata(entries: Sequence[Entry], results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    tags = ["reinforcement-learning", "offline-reinforcement-learning", "multi-task"]
    tags += ["decision-transformer"]
    if any(entry.kind == "router" for entry in entries):
        tags += ["mixture-of-experts"]
    metadata: dict[str, Any] = {
        "library_name": "m3dt",
        "pipeline_tag": "reinforcement-learning",
        "tags": tags,
    }
    if results:
        metadata["model-index"] = [
            {"name": _name(file, result), "results": _indexed(result)}
            for file, result in results.items()
        ]
    return metadata


def _indexed(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a model's scores, over all tasks and per domain, in the layout of the hub."""
    count = len(result["tasks"])
    episodes = counted(result["episodes"], "episode")
    scores = {counted(count, "task"): result["score"], **result["domains"]}
    return [
        {
            "task": {"type": "reinforcement-learning", "name": "reinforcement learning"},
            "dataset": {"name": name, "type": name.replace(" ", "-")},
            "metrics": [
                {
                    "type": "normalized_score",
                    "name": f"normalized score, 0 to 100, {episodes} per task",
                    "value": round(float(score), 1),
                }
            ],
        }
        for name, score in scores.items()
    ]


def _rows(entries: Sequence[Entry]) -> list[str]:
    """Return a line per model; experts share one."""
    rows = []
    for kind in KINDS:
        same = [entry for entry in entries if entry.kind == kind]
        name = f"{len(same)} experts" if kind == "expert" and len(same) > 1 else ""
        for entry in same[:1] if name else same:
            count = len({task for other in (same if name else [entry]) for task in other.tasks})
            parents = sorted({key.partition("/")[0] for key in entry.parents}) or ["data"]
            rows.append(f"| {name or entry.key} | {count} | {entry.step} | {', '.join(parents)} |")
    return rows


def _name(file: str, result: Mapping[str, Any]) -> str:
    """Return the method, and what its file's name says of how it acted, such as `@target-0.5`."""
    _, at, way = file.partition("@")
    return f"{result['method']} ({at}{way})" if at else str(result["method"])


def _scores(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of scores, or nothing."""
    if not results:
        return ""
    lines = ["", "## Scores", ""]
    interval = "with a 95 % interval over tasks and episodes"
    lines += [f"Normalized scores, 0 to 100, mean over tasks, {interval}.", ""]
    lines += ["| model | score | tasks | episodes per task | seed of episodes |"]
    lines += ["|---|---|---|---|---|"]
    for file, result in results.items():
        ends = result.get("ci95")
        interval = f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else ""
        about = f"{len(result['tasks'])} | {result['episodes']} | {result['seed']}"
        lines.append(f"| {_name(file, result)} | {result['score']:.1f}{interval} | {about} |")
    return "\n".join([*lines, ""])


def _results(run: Path, entries: Sequence[Entry]) -> dict[str, Mapping[str, Any]]:
    """Return the newest stored scores of these models, by the names under which they act.

    Left out are scores of weights that were trained again since, and of untrained policies.
    """
    hashes, found = {entry.hash for entry in entries}, {}
    stored, _ = evaluations(run)
    for name, one in newest(stored).items():
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            result = one.result
            _indexed(result), _scores({name: result})  # it has what a card needs
            if one.weights and one.weights <= hashes:
                found[name] = result
    return found
