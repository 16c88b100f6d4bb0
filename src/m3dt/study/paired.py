"""Compare models of the same runs on the same tasks."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from m3dt.runs.evaluations import ANY, Conditions, file_name
from m3dt.study.score_rows import COLUMNS, arrays_of, by_model, compared, read_scores
from m3dt.utils.errors import UserError, nearest
from m3dt.utils.files import atomic_path
from m3dt.utils.output_files import check_output


def compare(
    sources: Sequence[Path],
    models: Sequence[str],
    against: str,
    margin: float,
    table_file: Path | None,
    console: Console,
    wanted: Conditions = ANY,
) -> None:
    """Print the paired differences of models to one of them; write all scores as a table.

    Args:
        sources: Folders of runs that differ in their seed, or tables written by this function.
        models: Names of models; by default all that every run has.
        against: The model that others are compared with.
        margin: How many points below count as no worse.
        table_file: Where the table goes, or None.
        console: Receives the comparison.
        wanted: Conditions of the evaluations that are compared; by default those of the newest.

    Raises:
        UserError: Scores are missing.
    """
    if table_file is not None:
        check_output(table_file)
    against, models = file_name(against), list(dict.fromkeys(map(file_name, models)))
    rows, notes = read_scores(sources, against, wanted)
    for note in notes:
        console.print(f"  {note}", style="yellow")
    if table_file is not None:
        with atomic_path(table_file) as temporary, temporary.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    scores = by_model(rows)
    if against not in scores:
        raise UserError(f"--against {against}: nobody evaluated it.{nearest(against, scores)}")
    cells = sorted(scores[against])
    complete = [name for name, own in scores.items() if set(own) >= set(cells)]
    chosen = list(models) or complete
    for name in chosen:
        if name not in complete:
            hint = nearest(name, complete)
            raise UserError(f"--models {name}: it lacks scores that {against} has.{hint}")
    console.print(_comparison(rows, chosen, against, margin))


def _comparison(
    rows: Sequence[dict[str, str]], models: Sequence[str], against: str, margin: float
) -> Table:
    _, (runs, tasks) = arrays_of(by_model(rows), [against])
    table = Table(
        title=_title(len(runs), len(tasks), against),
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in ("model", "mean", "IQM", "difference", "P(better)"):
        table.add_column(column, justify="left" if column == "model" else "right")
    table.add_column("verdict", max_width=14)
    table.add_column("MFLOP", justify="right")
    for one in compared(rows, models, against, margin):
        difference = one.difference.text("+.1f", "+.1f") if one.difference else ""
        better = one.better.text(".0%", ".0%") if one.better else ""
        scores = (score.text(".1f", ".1f") for score in (one.mean, one.middle))
        table.add_row(one.model, *scores, difference, better, one.verdict, f"{one.mflop:,.1f}")
    return table


def _title(runs: int, tasks: int, against: str) -> str:
    counted = f"{runs} run{'s' * (runs > 1)} x {tasks} task{'s' * (tasks > 1)}"
    drawn = [name for name, count in (("runs", runs), ("tasks", tasks)) if count > 1]
    intervals = f" [95 % bootstrap over {' and '.join(drawn)}]" if drawn else ""
    return f"{counted}, compared with {against}{intervals}"
