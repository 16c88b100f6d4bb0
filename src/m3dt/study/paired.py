"""Comparisons task by task: how often a model is ahead, and an interval over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from m3dt.study.estimates import NOT_MEASURED, Estimate
from m3dt.study.markdown import markdown_table
from m3dt.study.method_names import ABLATIONS, BASELINES, PROMPT_DT, reference_method
from m3dt.study.queries import SUITES
from m3dt.study.study_results import Results

_NAMES = BASELINES | ABLATIONS | {"m3dt-top-k": "noisy top-k"}
_VARIANTS_OF_M3DT = (
    "experts", "top-k", "ablations", "backbone", "residual", "width", "narrow", "wide"
)  # fmt: skip
_POINT = 1.0  # the least difference of scores that counts as better or worse
_Z = 1.96  # the normal distribution's 97.5 % quantile
_HEADER = (
    "tasks", "method", "compared with", "tasks x seeds", "difference [95 % over tasks]",
    "better by a point", "worse",
)  # fmt: skip
Row = Mapping[str, str]


def paired_table(results: Results) -> str:
    """Return methods against Prompt-DT, and variants of M3DT against M3DT, as Markdown.

    The interval is that of a mean over independent tasks. It leaves out the variance between
    trainings, which all tasks of a training share; the claims compare whole seeds instead.
    """
    tasks_of_suite = {name: tasks for tasks, name in SUITES.items()}
    groups: dict[tuple[int, str, str], list[Row]] = {}
    for row in results.rows:
        if row["part"] != "tasks" and (row["part"], row["method"]) != ("baselines", PROMPT_DT):
            group = tasks_of_suite[row["suite"]], _label(row), _reference(row)
            groups.setdefault(group, []).append(row)
    rows = []
    for (tasks, label, method), cells in sorted(groups.items(), key=lambda item: item[0][0]):
        found = differences(results, cells)
        x = np.array([d for seeds in found.values() for d in seeds])
        known = len(found) > 1
        text = str(over_tasks(found)) if known else NOT_MEASURED
        counts = [str((x > _POINT).sum()), str((x < -_POINT).sum())] if known else ["", ""]
        rows.append([str(tasks), label, _NAMES[method], str(len(x)), text, *counts])
    return markdown_table(_HEADER, rows)


def differences(results: Results, cells: Sequence[Row]) -> dict[str, list[float]]:
    """Return by task, for each seed, the score of cells minus that of their reference."""
    found: dict[str, list[float]] = {}
    for row in cells:
        method = _reference(row)
        part = "baselines" if method == PROMPT_DT else "m3dt"
        references = results.task_scores(part, suite=row["suite"], method=method)
        ours = results.tasks.get(row["cell"], {})
        theirs = references.get(int(row["seed"]), {})
        for task in ours.keys() & theirs.keys():
            found.setdefault(task, []).append(ours[task] - theirs[task])
    return found


def over_tasks(found: Mapping[str, Sequence[float]]) -> Estimate:
    """Return the mean difference and its interval, clustering the seeds of each task."""
    mean = float(np.mean([d for seeds in found.values() for d in seeds]))
    count = sum(map(len, found.values()))
    sums = np.array([sum(seeds) - len(seeds) * mean for seeds in found.values()])
    half = _Z * float(np.sqrt((sums**2).sum() * len(found) / (len(found) - 1))) / count
    return Estimate(mean, mean - half, mean + half, count)


def _reference(row: Row) -> str:
    """Return the method that a cell is compared with."""
    return reference_method(row["method"]) if row["part"] in _VARIANTS_OF_M3DT else PROMPT_DT


def _label(row: Row) -> str:
    settings = [f"{setting}={value}" for setting, value in row.items() if "." in setting and value]
    return ", ".join([_NAMES.get(row["method"], row["method"]), *settings])
