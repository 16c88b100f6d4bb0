"""Compare models of the same runs on the same tasks: paired differences and equivalence.

Letters: R runs (seeds), N tasks.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from m3dt.utils.errors import UserError, nearest
from m3dt.utils.files import atomic_path, read_json
from m3dt.utils.output_files import check_output

_RESAMPLES = 10_000
COLUMNS = ("run", "model", "task", "score", "mflop", "ms")
Scores = dict[str, dict[tuple[str, str], float]]  # by model, then by run and task


@dataclass(frozen=True)
class Difference:
    """A mean difference over runs and tasks with its 95 % interval."""

    mean: float
    low: float
    high: float

    def verdict(self, margin: float) -> str:
        """Say what the interval shows, given how much worse counts as the same."""
        if self.low > 0:
            return "better"
        if self.high < 0 and self.low <= -margin:
            return "worse" if self.high >= -margin else f"worse by more than {margin:g}"
        if self.low > -margin:
            return f"not more than {margin:g} below"
        return "cannot be told"


def paired_difference(one: np.ndarray, other: np.ndarray, seed: int = 0) -> Difference:
    """Estimate the mean of one - other over runs and tasks, (R, N) each.

    The interval is a bootstrap over both axes: runs and tasks are drawn with replacement, and each
    drawn task is seen in each drawn run.
    """
    differences, rng = one - other, np.random.default_rng(seed)
    R, N = differences.shape
    runs = rng.integers(0, R, size=(_RESAMPLES, R))
    tasks = rng.integers(0, N, size=(_RESAMPLES, N))
    counts = np.stack([np.bincount(drawn, minlength=N) for drawn in tasks])  # (resamples, N)
    of_runs = np.stack([np.bincount(drawn, minlength=R) for drawn in runs])  # (resamples, R)
    means = ((of_runs @ differences) * counts).sum(axis=1) / (R * N)
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(float(differences.mean()), float(low), float(high))


def read_scores(sources: Iterable[Path]) -> list[dict[str, str]]:
    """Return a row (`COLUMNS`) for each run, model and task of run folders and of tables.

    Raises:
        UserError: A source holds no scores.
    """
    rows = []
    for source in sources:
        found = _table_rows(source) if source.is_file() else _run_rows(source)
        if not found:
            raise UserError(f"{source}: holds no scores. Run `m3dt evaluate` on the run first.")
        rows += found
    return rows


def _table_rows(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    if rows and set(rows[0]) != set(COLUMNS):
        raise UserError(f"{file}: has not the columns {', '.join(COLUMNS)}")
    return rows


def _run_rows(run: Path) -> list[dict[str, str]]:
    rows = []
    for file in sorted((run / "evaluation").glob("*.json")):
        result = read_json(file, finite=True)["result"]
        for task, scores in result["tasks"].items():
            cost = f"{result['flops_per_action'] / 1e6:.3f}", f"{result['ms_per_action']:.3f}"
            values = (run.name, file.stem, task, f"{scores['score']:.2f}", *cost)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def compare(
    sources: Sequence[Path],
    models: Sequence[str],
    against: str,
    margin: float,
    table_file: Path | None,
    console: Console,
) -> None:
    """Print the paired differences of models to one of them; write all scores as a table.

    Args:
        sources: Folders of runs that differ in their seed, or tables written by this function.
        models: Names of models; by default all that every run has.
        against: The model that others are compared with.
        margin: How many points below count as no worse.
        table_file: Where the table goes, or None.
        console: Receives the comparison.

    Raises:
        UserError: Scores are missing.
    """
    if table_file is not None:
        check_output(table_file)
    rows = read_scores(sources)
    if table_file is not None:
        with atomic_path(table_file) as temporary, temporary.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    scores: Scores = {}
    for row in rows:
        scores.setdefault(row["model"], {})[row["run"], row["task"]] = float(row["score"])
    if against not in scores:
        raise UserError(f"--against {against}: nobody evaluated it.{nearest(against, scores)}")
    cells = sorted(scores[against])
    complete = [name for name, own in scores.items() if set(own) >= set(cells)]
    chosen = list(models) or complete
    for name in chosen:
        if name not in complete:
            hint = nearest(name, complete)
            raise UserError(f"--models {name}: it lacks scores that {against} has.{hint}")
    console.print(_comparison(rows, scores, chosen, against, margin))


def _comparison(
    rows: Sequence[dict[str, str]],
    scores: Scores,
    models: Sequence[str],
    against: str,
    margin: float,
) -> Table:
    runs = sorted({run for run, _ in scores[against]})
    tasks = sorted({task for _, task in scores[against]})
    by_model = {
        name: np.array([[scores[name][run, task] for task in tasks] for run in runs])
        for name in (*models, against)
    }
    title = f"{len(runs)} runs x {len(tasks)} tasks; differences to {against} [95 % interval]"
    table = Table(title=title, title_justify="left")
    for column in ("model", "score", "difference", "verdict", "MFLOP"):
        table.add_column(column, justify="left" if column in ("model", "verdict") else "right")
    for name in models:
        found = paired_difference(by_model[name], by_model[against])
        cost = np.mean([float(row["mflop"]) for row in rows if row["model"] == name])
        shown = f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
        same = name == against
        table.add_row(
            name,
            f"{by_model[name].mean():.1f}",
            "" if same else shown,
            "" if same else found.verdict(margin),
            f"{cost:,.2f}",
        )
    return table
