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

from m3dt.runs.entries import ENTRY, KINDS, Entry, read_entry
from m3dt.runs.evaluations import evaluations, newest
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

agent = m3dt.load("{title}")  # this folder
m3dt.evaluate(agent, tasks="{task}")
```

## Models

| model | tasks | optimiser steps | trained on |
|---|---|---|---|
{models}
{scores}
## Tasks

{tasks}
"""


def write_card(run: Path) -> None:
    """Write a run's card again, from what its folder holds now.

    A `license` that a person added to the metadata stays. A card that a person wrote is left alone,
    and so is a folder without models. A card that cannot be written ends no training.
    """
    with suppress(OSError, UserError, UnicodeDecodeError):
        card = run / CARD
        old = card.read_text() if card.is_file() else ""
        entries = _entries(run)
        if not entries or (old and _MARK not in old):
            return
        found = re.search(r"^license: (.+)$", old, re.M)
        text = card_text(run.resolve().name, entries, _results(run), found[1] if found else None)
        if text != old:
            with atomic_path(card) as temporary:
                temporary.write_text(text)


def card_text(
    title: str,
    entries: Sequence[Entry],
    results: Sequence[Mapping[str, Any]],
    license: str | None = None,
) -> str:
    """Return a card.

    Args:
        title: The run's name.
        entries: Its models.
        results: Its scores, as `m3dt evaluate --json` writes them.
        license: Of the weights, which only their owner can choose; left out by default.
    """
    tasks = list(dict.fromkeys(task for entry in entries for task in entry.tasks))
    newest = entries[-1]
    body = _BODY.format(
        title=title,
        mark=_MARK,
        summary=f"An agent for {len(tasks)} task{'s' if len(tasks) != 1 else ''}.",
        version=newest.versions.get("m3dt", ""),
        task=tasks[0] if tasks else "TASK",
        models="\n".join(_rows(entries)),
        scores=_scores(results),
        tasks=", ".join(f"`{task}`" for task in tasks),
    )
    metadata = OmegaConf.to_yaml(OmegaConf.create(_metadata(entries, results, license)))
    return f"---\n{metadata}---\n{body}"


def _metadata(
    entries: Sequence[Entry], results: Sequence[Mapping[str, Any]], license: str | None
) -> dict[str, Any]:
    tags = ["reinforcement-learning", "offline-reinforcement-learning", "multi-task"]
    tags += ["decision-transformer"]
    if any(entry.kind == "router" for entry in entries):
        tags += ["mixture-of-experts"]
    metadata: dict[str, Any] = {
        **({"license": license} if license else {}),
        "library_name": "m3dt",
        "pipeline_tag": "reinforcement-learning",
        "tags": tags,
    }
    if results:
        metadata["model-index"] = [
            {"name": result["method"], "results": _indexed(result)} for result in results
        ]
    return metadata


def _indexed(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a model's scores, over all tasks and per domain, in the layout of the hub."""
    count = len(result["tasks"])
    scores = {f"{count} task{'s' if count != 1 else ''}": result["score"], **result["domains"]}
    return [
        {
            "task": {"type": "reinforcement-learning", "name": "reinforcement learning"},
            "dataset": {"name": name, "type": name.replace(" ", "-")},
            "metrics": [
                {
                    "type": "normalized_score",
                    "name": f"normalized score, 0 to 100, {result['episodes']} episodes per task",
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


def _scores(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of scores, or nothing."""
    if not results:
        return ""
    lines = ["", "## Scores", ""]
    lines += ["Normalized scores, 0 to 100, mean over tasks, with a 95 % interval over them.", ""]
    lines += ["| model | score | tasks | episodes per task | seed |", "|---|---|---|---|---|"]
    for result in results:
        ends = result.get("ci95")
        interval = f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else ""
        about = f"{len(result['tasks'])} | {result['episodes']} | {result['seed']}"
        lines.append(f"| {result['method']} | {result['score']:.1f}{interval} | {about} |")
    return "\n".join([*lines, ""])


def _entries(run: Path) -> list[Entry]:
    """Return the entries that can be read; their weights are not verified."""
    found = []
    for kind in KINDS:
        folders = (run / "registry" / kind).glob(f"[!.]*/{ENTRY}")
        for path in sorted(folders, key=lambda p: (len(p.parent.name), p.parent.name)):
            with suppress(UserError):
                found.append(read_entry(path))
    return found


def _results(run: Path) -> list[Mapping[str, Any]]:
    """Return the newest scores of each of the run's trained models."""
    stored, _ = evaluations(run)
    results = (one.result for one in newest(stored).values())
    return [result for result in results if result["num_parameters"]]
