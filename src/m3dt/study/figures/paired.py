"""Two models task by task: how often one is ahead, and an interval over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from m3dt.study.estimates import Estimate, Results
from m3dt.study.figures.ablations import ABLATIONS, whole
from m3dt.study.figures.comparison import BASELINES
from m3dt.study.lookup import SUITES
from m3dt.study.markdown import markdown, measured

_NAMES = BASELINES | ABLATIONS | {"m3dt-top-k": "noisy top-k"}
_TASKS = {name: tasks for tasks, name in SUITES.items()}
_PROMPT_DT = "promptdt"
_OF_M3DT = ("experts", "top-k", "ablations", "backbone", "residual", "width", "narrow", "wide")
_POINT = 1.0  # by which a score must be ahead to count
_Z = 1.96
_HEADER = (
    "tasks",
    "method",
    "beside",
    "tasks x seeds",
    "difference [95 % over tasks]",
    "better by a point",
    "worse",
)
Row = Mapping[str, str]


def differences(results: Results, cells: Sequence[Row]) -> dict[str, list[float]]:
    """Return what cells score over what they are compared with: by task, a number a seed."""
    found: dict[str, list[float]] = {}
    for row in cells:
        method = _beside(row)
        part = "baselines" if method == _PROMPT_DT else "m3dt"
        others = results.task_scores(part, suite=row["suite"], method=method)
        ours, theirs = results.tasks.get(row["cell"], {}), others.get(int(row["seed"]), {})
        for task in ours.keys() & theirs.keys():
            found.setdefault(task, []).append(ours[task] - theirs[task])
    return found


def over_tasks(found: Mapping[str, Sequence[float]]) -> Estimate:
    """Return the mean difference and its interval, where seeds of one task count as one draw."""
    mean = float(np.mean([d for seeds in found.values() for d in seeds]))
    count = sum(map(len, found.values()))
    sums = np.array([sum(seeds) - len(seeds) * mean for seeds in found.values()])
    half = _Z * float(np.sqrt((sums**2).sum() * len(found) / (len(found) - 1))) / count
    return Estimate(mean, mean - half, mean + half, count)


def paired_table(results: Results) -> str:
    """Return methods beside Prompt-DT and variants beside what they vary, as Markdown.

    The interval is that of a mean over independent tasks. A training's luck, which its tasks
    share, is not in it: the claims take seeds as a whole instead.
    """
    groups: dict[tuple[int, str, str], list[Row]] = {}
    for row in results.rows:
        if row["part"] != "tasks" and (row["part"], row["method"]) != ("baselines", _PROMPT_DT):
            group = _TASKS[row["suite"]], _label(row), _beside(row)
            groups.setdefault(group, []).append(row)
    rows = []
    for (tasks, label, method), cells in sorted(groups.items(), key=lambda item: item[0][0]):
        found = differences(results, cells)
        x = np.array([d for seeds in found.values() for d in seeds])
        value = over_tasks(found) if len(found) > 1 else None
        counts = [str((x > _POINT).sum()), str((x < -_POINT).sum())] if value else ["", ""]
        rows.append([str(tasks), label, _NAMES[method], str(len(x)), measured(value), *counts])
    return markdown(_HEADER, rows)


def _beside(row: Row) -> str:
    """Return the method that a cell is to be compared with."""
    return whole(row["method"]) if row["part"] in _OF_M3DT else _PROMPT_DT


def _label(row: Row) -> str:
    settings = [f"{setting}={value}" for setting, value in row.items() if "." in setting and value]
    return ", ".join([_NAMES.get(row["method"], row["method"]), *settings])
