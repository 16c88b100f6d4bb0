"""Compare models of the same runs on the same tasks."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from m3dt.runs.evaluations import ANY, Conditions, file_name
from m3dt.study.paired_runs import read_scores
from m3dt.study.score_rows import COLUMNS, arrays_of, by_model, compared
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError
from m3dt.utils.output_files import check_output, write_output


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
        wanted: Conditions of the evaluations that are compared; by default the newest that
            most runs have.

    Raises:
        UserError: Scores are missing. No table is written then.
    """
    if table_file is not None:
        check_output(table_file)
    asked = list(dict.fromkeys(models))
    found = read_scores(sources, against, asked, wanted)
    for note in found.notes:
        console.print(f"  {note}", style="yellow")
    rows, against = found.rows, file_name(against)
    complete = [name for name in by_model(rows) if name not in found.lacking]
    chosen = list(dict.fromkeys(map(file_name, asked))) or complete
    for name in chosen:
        if name not in complete:
            raise UserError(f"--models {name}: {found.lacking[name]}")
    table = _comparison(rows, chosen, against, margin)
    if table_file is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_output(table_file, text.getvalue())
    console.print(table)


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
    size = f"{counted(runs, 'run')} x {counted(tasks, 'task')}"
    drawn = [name for name, count in (("runs", runs), ("tasks", tasks)) if count > 1]
    intervals = f" [95 % bootstrap over {' and '.join(drawn)}]" if drawn else ""
    return f"{size}, compared with {against}{intervals}"
