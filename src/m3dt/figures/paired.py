"""Two models task by task: how often one is ahead, and an interval over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from m3dt.figures.ablations import ABLATIONS, whole
from m3dt.figures.cells import MAIN, SUITES
from m3dt.figures.markdown import markdown
from m3dt.figures.methods import BASELINES
from m3dt.figures.results import NOT_MEASURED, Results

_NAMES = BASELINES | ABLATIONS | {"m3dt-top-k": "noisy top-k"}
_PROMPT_DT = "baselines", "promptdt"
_OF_M3DT = ("experts", "top-k", "ablations", "backbone", "residual", "width", "narrow", "wide")
_POINT = 1.0  # by which a score must be ahead to count
_Z = 1.96


def differences(
    results: Results, cells: Sequence[Mapping[str, str]], of: tuple[str, str]
) -> list[float]:
    """Return what cells score over a method, one number a task and seed.

    Args:
        results: Of the study.
        cells: Rows of it.
        of: Part and name of the method, which is taken on the same tasks.
    """
    part, method = of
    others = results.task_scores(part, suite=SUITES[MAIN], method=method)
    found = []
    for row in cells:
        ours, theirs = results.tasks.get(row["cell"], {}), others.get(int(row["seed"]), {})
        found += [ours[task] - theirs[task] for task in ours if task in theirs]
    return found


def paired_table(results: Results) -> str:
    """Return every cell of the 40 tasks beside what it varies, task by task, as Markdown.

    The interval is that of a mean of independent differences. A training's luck, which its tasks
    share, is not in it: the claims take seeds as a whole instead.
    """
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in results.rows:
        if row.get("suite") == SUITES[MAIN]:
            groups.setdefault((_label(row), _beside(row)[1]), []).append(row)
    rows = []
    for (label, method), cells in groups.items():
        x = np.array(differences(results, cells, _beside(cells[0])))
        if (cells[0]["part"], cells[0]["method"]) == _PROMPT_DT:
            continue
        if len(x) < 2:
            rows.append([label, _NAMES[method], str(len(x)), NOT_MEASURED, "", ""])
            continue
        half = _Z * x.std(ddof=1) / len(x) ** 0.5
        interval = f"{x.mean():z.1f} [{x.mean() - half:z.1f}, {x.mean() + half:z.1f}]"
        better, worse = int((x > _POINT).sum()), int((x < -_POINT).sum())
        rows.append([label, _NAMES[method], str(len(x)), interval, str(better), str(worse)])
    header = [
        f"{MAIN} tasks",
        "beside",
        "tasks x seeds",
        "difference [95 % over tasks]",
        "better",
        "worse",
    ]
    return markdown(header, rows)


def _beside(row: Mapping[str, str]) -> tuple[str, str]:
    """Return part and method of what a cell is to be compared with."""
    return ("m3dt", whole(row["method"])) if row["part"] in _OF_M3DT else _PROMPT_DT


def _label(row: Mapping[str, str]) -> str:
    settings = [f"{setting}={value}" for setting, value in row.items() if "." in setting and value]
    return ", ".join([_NAMES.get(row["method"], row["method"]), *settings])
