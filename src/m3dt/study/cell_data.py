"""The datasets that a study's cells were trained on: scores of other data stand in no one table."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from m3dt.data.format import DatasetIndex
from m3dt.runs.entries import entry_files, read_entry
from m3dt.study.grid import IN_A_ROW, NOT_AT_ALL, Cell, Study
from m3dt.tasks import tasks_of
from m3dt.utils.errors import UserError

COLUMN = "dataset"  # of a table, and of a cell's results
_SHOWN = 12  # characters of a checksum in a table


def trained_on(run: Path) -> str:
    """Return the checksums of the datasets that a run's models were trained on, joined by `+`.

    Raises:
        UserError: An entry is damaged.
    """
    found = dict.fromkeys(entry.dataset for entry in map(read_entry, entry_files(run)))
    return "+".join(dataset[:_SHOWN] for dataset in found if dataset)


class DataHere:
    """The datasets of cells, as far as they are on this machine; each index is read once."""

    def __init__(self) -> None:
        self._index = cache(_index)

    def agrees(self, cell: Cell, dataset: str) -> bool:
        """Return False if the dataset of a cell is here and another one than it was trained on.

        `dataset` is from its results, empty where these do not say it. A cell that begins as a copy
        has the data of its source, too, which are not compared.
        """
        used = dataset.split("+")
        here = self._checksums(cell) if dataset else []
        if not here:
            return True
        return set(here) <= set(used) if cell.copy else here == used

    def _checksums(self, cell: Cell) -> list[str]:
        """Return the checksum of each dataset that a cell's trainings read, if it is here."""
        index, tasks = self._index(cell.config.data), tasks_of(cell.config)
        if index is None or not set(tasks) <= index.tasks.keys():
            return []
        groups = [[task] for task in tasks] if cell.extend == IN_A_ROW else [tasks]
        if cell.copy and cell.extend == NOT_AT_ALL:
            groups = []
        return [index.checksum(group)[:_SHOWN] for group in groups]


def _index(folder: str) -> DatasetIndex | None:
    try:
        return DatasetIndex.read(Path(folder))
    except UserError:
        return None  # not here, or what training refuses


def check_one_dataset(study: Study, file: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Refuse rows whose cells name the same folder and tasks, but were trained on different data.

    Raises:
        UserError: Names two of them.
    """
    by_cell = {row["cell"]: row for row in rows if row.get(COLUMN)}
    first: dict[tuple[str, tuple[str, ...]], Mapping[str, str]] = {}
    for cell in study.cells:
        row = by_cell.get(cell.name)
        if row is None or cell.copy:
            continue
        other = first.setdefault((cell.config.data, tuple(tasks_of(cell.config))), row)
        if other[COLUMN] != row[COLUMN]:
            raise UserError(
                f"{file}: {row['cell']} was trained on other data ({row[COLUMN]}) than "
                f"{other['cell']} ({other[COLUMN]}). Their scores cannot be compared: copy one "
                "dataset to all machines and repeat the cells of the other."
            )
