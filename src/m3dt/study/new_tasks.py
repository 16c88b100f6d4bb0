"""Scores by seed of the ways in which a trained agent meets new tasks: `conf/study/extend.yaml`.

Each way was given the same few trajectories of the new tasks.
"""

import re
from collections.abc import Collection, Mapping
from statistics import fmean
from typing import NamedTuple

from m3dt.study.estimates import Ranged, Scores
from m3dt.study.study_results import Results
from m3dt.tasks import suite

PARTS = ("unseen", "expert", "row", "tuned", "scratch")
BEFORE = "before"  # the model that a cell's run was a copy of, as it scored


class Way(NamedTuple):
    """A way to meet new tasks, and where its scores are."""

    title: str
    part: str
    model: str  # whose scores; empty for the cell's own model


WAYS = {
    "nearest": Way("nearest recorded state", "unseen", "nearest"),
    "backbone": Way("backbone, zero-shot", "unseen", "backbone"),
    "zero-shot": Way("agent, zero-shot", "unseen", ""),
    "expert": Way("new expert, by the router", "expert", ""),
    "own expert": Way("new expert, given the task", "expert", "oracle"),
    "tuned": Way("full fine-tuning", "tuned", ""),
    "scratch": Way("from scratch", "scratch", ""),
}

JOINED = {"expert": "all at once", "row": "one after the other"}
"""How new tasks joined the old ones, by part."""


def is_of_new_tasks(results: Results) -> bool:
    """Tell whether results are those of such a study."""
    return any(row["part"] in PARTS for row in results.rows)


def new_tasks(results: Results) -> list[str]:
    """Return the tasks that agents were not trained on."""
    rows = (row for row in results.rows if row["part"] in PARTS)
    return list(dict.fromkeys(task for row in rows for task in _tasks(row)))


def trajectories(results: Results) -> list[int]:
    """Return the numbers of trajectories of each new task, ascending."""
    return sorted({_trajectories(row) for row in results.rows if row["part"] in PARTS})


def rates(results: Results, part: str) -> list[str]:
    """Return the learning rates of a part, ascending."""
    return results.numbers(part, "learning_rate")


def cells(results: Results, part: str, number: int, rate: str = "") -> list[dict[str, str]]:
    """Return the rows of a part with a number of trajectories, of one learning rate or of all."""
    return [
        row
        for row in results.rows
        if (row["part"], _trajectories(row)) == (part, number)
        and rate in ("", row.get("baseline.learning_rate"))
    ]


def scores(results: Results, way: Way, number: int, rate: str = "") -> Scores:
    """Return the mean score over all new tasks by seed.

    Args:
        results: Of the study.
        way: One of `WAYS`.
        number: Of trajectories of each task.
        rate: Learning rate of cells that vary it.

    Returns:
        Seeds in which some task has no score are left out.
    """
    tasks = new_tasks(results)
    by_seed: dict[int, dict[str, float]] = {}
    for row in cells(results, way.part, number, rate):
        found = task_scores(results, row, way.model)
        by_seed.setdefault(int(row["seed"]), {}).update(found)
    complete = {s: of for s, of in by_seed.items() if of.keys() >= set(tasks)}
    return Ranged({s: fmean(of[task] for task in tasks) for s, of in sorted(complete.items())})


def best_tuned(results: Results, number: int) -> tuple[str, Scores]:
    """Return the learning rate with which full fine-tuning scores best, and these scores."""
    found = {rate: scores(results, WAYS["tuned"], number, rate) for rate in rates(results, "tuned")}
    measured = {rate: of for rate, of in found.items() if of}
    if not measured:
        return "", {}
    return max(measured.items(), key=lambda item: (len(item[1]), fmean(item[1].values())))


def old_scores(results: Results, part: str, number: int, model: str = "") -> Scores:
    """Return the mean score over the old tasks by seed, of a part that extends agents.

    Args:
        results: Of the study.
        part: `expert` or `row`.
        number: Of trajectories of each new task.
        model: `BEFORE` for the agent before its extension.
    """
    found, new = {}, set(new_tasks(results))
    for row in cells(results, part, number):
        of = task_scores(results, row, model)
        old = [score for task, score in of.items() if task not in new]
        if old:
            found[int(row["seed"])] = fmean(old)
    return Ranged(dict(sorted(found.items())))


def trained_parameters(results: Results) -> dict[str, float]:
    """Return the parameters that are trained for a new task, by the name of the way."""
    tasks, sizes = len(new_tasks(results)), dict[str, float]()
    for part in ("expert", "tuned", "scratch"):
        found = results.scores(part, "parameters")
        before = results.scores("unseen", "parameters")
        if part == "expert" and found.keys() & before.keys():
            seed = min(found.keys() & before.keys())
            sizes[part] = (found[seed] - before[seed]) / tasks
        elif part != "expert" and found:
            sizes[part] = next(iter(found.values()))
    return sizes


def task_scores(results: Results, row: Mapping[str, str], model: str = "") -> Mapping[str, float]:
    """Return the scores by task of a cell's own model, or of another one that was evaluated."""
    return results.tasks.get(f"{row['cell']}/{model}" if model else row["cell"], {})


def _tasks(row: Mapping[str, str]) -> Collection[str]:
    """Return the tasks that a row lists, or those of its suite."""
    if row.get("tasks"):
        return re.findall(r"[\w:.-]+", row["tasks"])
    return suite(row["suite"], int(row["seed"]))


def _trajectories(row: Mapping[str, str]) -> int:
    """Return the number at the end of the folder of a cell's data."""
    found = re.search(r"(\d+)$", row["data"])
    return int(found[1]) if found else 0
