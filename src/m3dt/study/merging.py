"""Merge the results of a study that several machines have written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from m3dt.study.cell_data import check_one_dataset
from m3dt.study.cell_results import Row
from m3dt.study.grid import Study
from m3dt.study.score_table import (
    check_settings,
    check_table,
    locked,
    print_table,
    read_rows,
    same_row,
    table_rows,
    write_rows,
)
from m3dt.study.table_details import DETAILS, Details, read_details
from m3dt.utils.counts import agreeing, counted
from m3dt.utils.errors import UserError


@dataclass(frozen=True)
class _Results:
    """What a table and the JSON files next to it hold: rows by cell, curves, scores per task."""

    file: Path
    rows: Mapping[str, Row]
    details: Details

    def contradicts(self, other: "_Results", cell: str) -> bool:
        """Tell whether a cell has other scores there, over all tasks or in one."""
        if not (cell in self.rows and cell in other.rows):
            return False
        mine, theirs = (found.details["tasks"].get(cell) for found in (self, other))
        same_tasks = mine == theirs or None in (mine, theirs)
        return not (same_tasks and same_row(self.rows[cell], other.rows[cell]))


def merge_tables(study: Study, folders: Sequence[Path], file: Path, console: Console) -> None:
    """Add the rows, scores per task and curves in some folders to a table, and print it.

    Args:
        study: The study.
        folders: Each holds a table of the same file name, and JSON files next to it.
        file: The table; it need not exist yet.
        console: Where the table is printed.

    Raises:
        UserError: A folder holds no such table, a row is of other settings, a cell has other
            scores in two places, or cells were trained on different data. Nothing is written then.
    """
    check_table(study, file)
    known = [cell.name for cell in study.cells]
    with locked(file):
        own = {row["cell"]: row for row in table_rows(study, file)}
        merged = [_Results(file, own, read_details(file))]
        for folder in folders:
            more = _read(study, folder / file.name)
            for before in merged:
                _check_agreement(before, more)
            merged.append(more)
            strange = ", ".join(more.rows.keys() - set(known))
            if strange:
                console.print(f"{more.file}: not cells of this study, left out: {strange}")
        rows = {name: row for found in reversed(merged) for name, row in found.rows.items()}
        details = {
            kind: {c: v for found in reversed(merged) for c, v in found.details[kind].items()}
            for kind in DETAILS
        }
        check_one_dataset(study, file, [*rows.values()])
        write_rows(study, file, [rows[name] for name in known if name in rows], details)
    print_table(study, file, console)


def _read(study: Study, file: Path) -> _Results:
    if not file.is_file():
        raise UserError(f"{file}: no such file. Give folders that hold {file.name}.")
    check_settings(study, file)
    return _Results(file, {row["cell"]: row for row in read_rows(file)}, read_details(file))


def _check_agreement(before: _Results, more: _Results) -> None:
    """Refuse two results of a cell that differ.

    Raises:
        UserError: Names the cells.
    """
    cells = [cell for cell in more.rows if more.contradicts(before, cell)]
    if cells:
        raise UserError(
            f"{more.file}: {counted(len(cells), 'cell')} {agreeing(len(cells), 'has', 'have')} "
            f"other scores than in {before.file}: "
            f"{', '.join(cells)}. Delete their rows in one of the two."
        )
