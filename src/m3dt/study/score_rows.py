"""Scores by run, model and task: read from runs and tables, paired, compared.

Letters: R runs, N tasks.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3dt.runs.entries import readable_entries
from m3dt.runs.evaluations import ANY, Conditions, Evaluation, evaluations, file_name, newest
from m3dt.study import aggregates
from m3dt.study.aggregates import Measured, measure
from m3dt.study.csv_tables import check_numbers, read_table
from m3dt.utils.errors import UserError

COLUMNS = ("run", "model", "task", "score", "mflop", "ms")
Scores = dict[str, dict[tuple[str, str], float]]  # by model, then by run and task


def read_scores(
    sources: Sequence[Path], against: str = "", wanted: Conditions = ANY
) -> tuple[list[dict[str, str]], list[str]]:
    """Return a row (`COLUMNS`) per run, model and task, and notes about files that were left out.

    Args:
        sources: Folders of runs, and tables.
        against: In each run, models are taken under the conditions of this one's newest
            evaluation, where they have such an evaluation, and else their newest.
        wanted: The conditions of the evaluations that are taken from runs.

    Raises:
        UserError: A source holds no scores.
    """
    rows, notes = [], []
    names = _names(sources)
    for source in sources:
        left_out: list[str] = []
        if source.is_file():
            found = _table_rows(source)
        else:
            stored, left_out = _of_present_weights(source)
            found = _rows_of(names[source], stored, against, wanted)
            notes += left_out
        if not found:
            asked = " under these conditions" if wanted != ANY else ""
            more = f" ({left_out[-1]})" if left_out else ""
            raise UserError(
                f"{source}: holds no scores{asked}. Run `m3dt evaluate` on the run first.{more}"
            )
        rows += found
    return rows, notes


def _of_present_weights(run: Path) -> tuple[list[Evaluation], list[str]]:
    """Return a run's evaluations, and notes about what was left out.

    Left out are the scores of models that were trained again since. Results outside a run stay.
    """
    stored, notes = evaluations(run)
    entries, problems = readable_entries(run)
    notes += problems
    present = {entry.hash for entry in entries}
    if not present:
        return stored, notes
    found = [one for one in stored if one.weights <= present]
    old = sorted({one.model for one in stored} - {one.model for one in found})
    if old:
        notes.append(
            f"{run}: left out the scores of {', '.join(old)}, since their weights are not in its "
            "registry. Evaluate the models that are: "
            f"`m3dt evaluate --run {shlex.quote(str(run))} --models NAMES`."
        )
    return found, notes


def _names(runs: Sequence[Path]) -> dict[Path, str]:
    """Return the folders' names, or their paths where two have the same name."""
    names = {run: run.resolve().name for run in runs}
    counts = Counter(names.values())
    return {run: name if counts[name] == 1 else str(run) for run, name in names.items()}


def is_score_table(file: Path) -> bool:
    """Tell whether a CSV has the columns of such a table."""
    return any(set(row) == set(COLUMNS) for row in read_table(file)[:1])


def _table_rows(file: Path) -> list[dict[str, str]]:
    rows = read_table(file)
    if rows and set(rows[0]) != set(COLUMNS):
        raise UserError(
            f"{file}: does not have the columns {', '.join(COLUMNS)}. Give a run, or a table that "
            "`m3dt compare --csv` wrote."
        )
    check_numbers(file, rows, COLUMNS[3:], needed=True)
    return rows


def _rows_of(
    run: str, stored: Sequence[Evaluation], against: str, wanted: Conditions
) -> list[dict[str, str]]:
    """Return the rows of a run's evaluations, one evaluation per model."""
    chosen = newest(stored, wanted)
    same = {name: one.conditions for name, one in chosen.items() if file_name(name) == against}
    for conditions in same.values():
        chosen |= newest(stored, conditions)
    rows = []
    for name, one in chosen.items():
        result = one.result
        for task, scores in result["tasks"].items():
            cost = f"{result['flops_per_action'] / 1e6:.3f}", f"{result['ms_per_action']:.3f}"
            values = (run, file_name(name), task, f"{scores['score']:.2f}", *cost)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
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
    """Return each model's scores, (R, N), with the runs and tasks of the last, in their order."""
    *_, last = chosen = tuple(models)
    runs, tasks = (list(dict.fromkeys(key[axis] for key in scores[last])) for axis in (0, 1))
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
