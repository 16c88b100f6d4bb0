"""A study's table of scores: read, checked, written and printed."""

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.table import Table

from m3dt.runs.entries import entry_files, read_entry
from m3dt.runs.layout import SCORES
from m3dt.study.cell_data import COLUMN, DataHere, check_one_dataset
from m3dt.study.cell_results import (
    RETURN,
    Row,
    among,
    dataset_of_results,
    read_results,
    scores_of,
)
from m3dt.study.csv_tables import read_study_table
from m3dt.study.grid import Cell, Study
from m3dt.study.table_details import (
    Details,
    curves_of,
    details_file,
    read_details,
    task_scores_of,
)
from m3dt.utils.counts import agreeing, counted
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, write_json
from m3dt.utils.output_files import check_output, is_stream


def write_table(study: Study, file: Path) -> None:
    """Write the scores of all evaluated cells, and their curves and scores per task next to it."""
    with locked(file):
        rows = table_rows(study, file)
        if rows:
            write_rows(study, file, rows, read_details(file))


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a table, which several jobs may share; create its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        yield


def write_rows(study: Study, file: Path, rows: Sequence[Row], known: Details) -> None:
    """Write rows, and what is known of their cells, unless a run here says more."""
    cells = {cell.name: cell for cell in study.cells}
    names, data = [row["cell"] for row in rows], DataHere()
    here = {name for name in names if dataset_of_results(study, cells[name], data) is not None}
    for kind, read in (("conflict", curves_of), ("tasks", task_scores_of)):
        details: dict[str, Any] = {}
        for name in names:
            kept = {key: of for key, of in known[kind].items() if key.partition("/")[0] == name}
            details |= (read(study, cells[name]) if name in here else {}) or kept
        write_json(details_file(file, kind), details)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(file) as temporary, temporary.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def check_table(study: Study, file: Path) -> None:
    """Refuse a table with rows of other settings, data or cells, which writing it would lose.

    Raises:
        UserError: The table has such rows, or cannot be written.
    """
    check_output(file)
    if is_stream(file):
        raise UserError(f"{file}: a table is read and written again. Give a file.")
    check_rows(study, file)


def check_rows(study: Study, file: Path) -> None:
    """Refuse a table with rows of other settings, data or cells.

    Raises:
        UserError: The table has such rows.
    """
    check_settings(study, file)
    check_one_dataset(study, file, table_rows(study, file))
    known = {cell.name for cell in study.cells}
    strange = [row["cell"] for row in read_rows(file) if row["cell"] not in known]
    if strange:
        raise UserError(
            f"{file}: {counted(len(strange), 'cell')} {agreeing(len(strange), 'is', 'are')} not of "
            f"this study, for example {strange[0]}. "
            "Give --csv FILE to write another table."
        )


def check_settings(study: Study, file: Path) -> None:
    """Refuse a table with rows of other settings, or of other data than those here.

    Raises:
        UserError: The table has such rows.
    """
    kept = {row["cell"] for row in table_rows(study, file)}
    keys = {cell.name: cell.key for cell in study.cells}
    lost = [row for row in read_rows(file) if row["cell"] in keys.keys() - kept]
    if not lost:
        return
    number, were = counted(len(lost), "cell"), agreeing(len(lost), "was", "were")
    first = lost[0]["cell"]
    if all(row.get("settings") == keys[row["cell"]] for row in lost):
        raise UserError(
            f"{file}: {number} {were} trained on other data than are here now, for example "
            f"{first}. Restore those data, or start another table: --csv FILE, and another folder "
            "of `runs` in the study's file."
        )
    raise UserError(
        f"{file}: {number} {were} made with other settings, for example {first}. Give --csv FILE "
        "to write another table, or delete this one."
    )


def scored_cells(study: Study, file: Path) -> set[str]:
    """Return the names of the cells with a row of these settings that no run here contradicts."""
    before = {row["cell"]: row for row in read_rows(file)}
    rows = table_rows(study, file)
    return {row["cell"] for row in rows if same_row(row, before.get(row["cell"], {}))}


def same_row(row: Row, other: Row) -> bool:
    """Tell whether two rows hold the same; a missing column is an empty one.

    A row that does not say which data it is of agrees with any.
    """
    first, second = ({k: str(v) for k, v in r.items() if v not in ("", None)} for r in (row, other))
    if COLUMN not in first or COLUMN not in second:
        first.pop(COLUMN, None)
        second.pop(COLUMN, None)
    return first == second


def table_rows(study: Study, file: Path) -> list[Row]:
    """Return a row for each evaluated cell: its values, scores and sizes.

    Other evaluated models of a cell have a column each, such as `oracle`. A cell without a run here
    keeps its row of the table. Results and rows of other settings, or of other data than those on
    this machine, do not count.
    """
    before = {row["cell"]: row for row in read_rows(file)}
    data, rows = DataHere(), []
    for cell in study.cells:
        dataset = dataset_of_results(study, cell, data)
        row = before.get(cell.name, {})
        if dataset is not None:
            rows.append(_row(study, cell, dataset))
        elif row.get("settings") == cell.key and data.agrees(cell, row.get(COLUMN, "")):
            rows.append(row)
    return rows


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a table, none if there is no such file.

    Raises:
        UserError: As of `read_study_table`.
    """
    return [row for row in read_study_table(file) if row.get("cell")] if file.is_file() else []


def _row(study: Study, cell: Cell, dataset: str) -> Row:
    settings = list(dict.fromkeys(setting for cell in study.cells for setting in cell.values))
    results = read_results(study.runs / cell.name / SCORES)
    found = list(results.values())[-1]  # the cell's own model
    row = {
        **({"part": cell.part} if cell.part else {}),
        **{setting: cell.values.get(setting, "") for setting in settings},
        **scores_of(found),
        **_held_out_losses(study, cell),
        "parameters": found["num_parameters"],
        "episodes": found["episodes"],
        "cell": cell.name,
        "settings": cell.key,
        COLUMN: dataset,
    }
    for model in cell.models[:-1]:
        name = among(results, model)
        if name:
            row[model] = round(results[name]["score"], 2)
    return row


def _held_out_losses(study: Study, cell: Cell) -> dict[str, float]:
    """Return the last loss on held-out trajectories by kind of model; experts are one model.

    Theirs is the mean over tasks, each with the expert of its group: the oracle's.
    """
    losses = {}
    for entry in map(read_entry, entry_files(study.runs / cell.name)):
        loss = entry.metrics.get("val/loss")
        if isinstance(loss, int | float):  # else another callback's
            losses[f"val/loss {entry.kind}"] = round(loss, 5)
    return losses


def _score(row: Row, column: str) -> float:
    value = row.get(column, "")
    return math.nan if value in ("", None) else float(value)


def print_table(study: Study, file: Path, console: Console) -> None:
    """Print the scores of all evaluated cells."""
    rows = table_rows(study, file)
    table = Table(title="normalized score [95 % interval]")
    with_return = (key for row in rows for key in row if key.endswith(RETURN))
    known = dict.fromkeys(key.removesuffix(RETURN) for key in with_return)
    domains = [d for d in known if any(not math.isnan(_score(row, d)) for row in rows)]
    named = ["cell"] if len({row["title"] for row in rows}) < len(rows) else []
    for column in ("method", *named, "mean over tasks", *domains, "parameters"):
        table.add_column(column, justify="left" if column in ("method", "cell") else "right")
    for row in rows:
        low, high = _score(row, "low"), _score(row, "high")
        interval = "(n = 1)" if math.isnan(low) else f"[{low:.1f}, {high:.1f}]"
        mean = f"{float(row['score']):.1f} {interval}"
        scores = [f"{_score(row, d):.1f}" for d in domains]
        names = [row[key] for key in ("title", *named)]
        table.add_row(*names, mean, *scores, f"{int(row['parameters']):,}")
    console.print(table)
