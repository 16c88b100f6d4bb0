"""Scores by run, model and task: tables of them, paired, compared.

Letters: R runs, N tasks.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from m3dt.study import aggregates
from m3dt.study.aggregates import Measured, measure
from m3dt.study.csv_tables import SCORE_COLUMNS as COLUMNS
from m3dt.study.csv_tables import check_numbers, read_table
from m3dt.utils.errors import UserError
from m3dt.utils.shell import quoted

Scores = dict[str, dict[tuple[str, str], float]]  # by model, then by run and task


def table_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a table of scores.

    Raises:
        UserError: It is no such table, is damaged, or has two scores in one place.
    """
    rows = read_table(file)
    if rows and "cell" in rows[0]:
        raise UserError(
            f"{file}: holds the results of a study. Show them: `m3dt figures {quoted(file)}`. "
            "Compare its runs by their folders."
        )
    if rows and set(rows[0]) != set(COLUMNS):
        raise UserError(
            f"{file}: does not have the columns {', '.join(COLUMNS)}. Give a run, or a table that "
            "`m3dt compare --csv` wrote."
        )
    if not rows:
        raise UserError(
            f"{file}: holds no scores. Write it again: `m3dt compare RUN... --against MODEL --csv "
            f"{quoted(file)}`."
        )
    check_numbers(file, rows, COLUMNS[3:], needed=True)
    places = Counter((row["run"], row["model"], row["task"]) for row in rows)
    (place, count), *_ = places.most_common(1)
    if count > 1:
        run, model, task = place
        raise UserError(
            f"{file}: has {count} scores of {model} in {task} of run {run}. Delete all but one; "
            "of tables with the same names of runs, give each as a file of its own."
        )
    return rows


def by_model(rows: Iterable[dict[str, str]]) -> Scores:
    """Return the scores of each model by run and task."""
    scores: Scores = {}
    for row in rows:
        scores.setdefault(row["model"], {})[row["run"], row["task"]] = float(row["score"])
    return scores


def arrays_of(
    scores: Scores, models: Iterable[str]
) -> tuple[dict[str, np.ndarray], tuple[list[str], list[str]]]:
    """Return each model's scores, (R, N), with the runs and tasks of the last, in their order.

    Raises:
        UserError: A model lacks a task in one of these runs.
    """
    *_, last = chosen = tuple(models)
    runs, tasks = (list(dict.fromkeys(key[axis] for key in scores[last])) for axis in (0, 1))
    for name, run, task in product(chosen, runs, tasks):
        if (run, task) not in scores[name]:
            raise UserError(
                f"run {run} has no score of {name} in {task}, but another run has. Compare runs "
                "with scores of the same tasks."
            )
    arrays = {
        name: np.array([[scores[name][run, task] for task in tasks] for run in runs])
        for name in chosen
    }
    return arrays, (runs, tasks)


@dataclass(frozen=True)
class Compared:
    """A model beside another one of the same runs and tasks; nothing is compared with itself."""

    model: str
    mean: Measured
    middle: Measured  # interquartile mean
    difference: Measured | None
    better: Measured | None  # probability of improvement
    verdict: str
    mflop: float


def compared(
    rows: Sequence[dict[str, str]], models: Sequence[str], against: str, margin: float
) -> list[Compared]:
    """Compare models with one of them, paired by run and task; all have scores of the same."""
    arrays, _ = arrays_of(by_model(rows), (*models, against))
    other, found = arrays[against], []
    for name in models:
        own, itself = arrays[name], name == against
        difference = None if itself else measure(aggregates.mean_difference, own, other)
        found.append(
            Compared(
                name,
                measure(aggregates.mean, own),
                measure(aggregates.interquartile_mean, own),
                difference,
                None if itself else measure(aggregates.probability_of_improvement, own, other),
                aggregates.verdict(difference.interval, margin) if difference else "",
                float(np.mean([float(row["mflop"]) for row in rows if row["model"] == name])),
            )
        )
    return found
