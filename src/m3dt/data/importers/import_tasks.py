"""Import tasks into a dataset: read and check everything, then move the files into place."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from m3dt.data.format import INDEX, NUM_PROMPTS, DatasetIndex, Provenance, TaskEntry, write_task
from m3dt.data.importers.readers import Tasks, read_minari, read_npz, read_promptdt, read_tdmpc2
from m3dt.tasks import Trajectory, get_task
from m3dt.utils.errors import UserError
from m3dt.utils.files import sole_writer, staging_folder

FORMATS: dict[str, Callable[[Path, Sequence[str]], Tasks]] = {
    "npz": read_npz,
    "tdmpc2": read_tdmpc2,
    "promptdt": read_promptdt,
    "minari": read_minari,
}
"""The reader of each format."""


def import_dataset(
    source: Path, folder: Path, format: str, names: Sequence[str], console: Console
) -> DatasetIndex:
    """Add the tasks of another project's dataset, all if none is named, to ours.

    Our folder is created if it does not exist. The format is one of `FORMATS`.

    Raises:
        UserError: The source cannot be read, a check fails, or another process is writing to the
            dataset. The dataset is unchanged.
    """
    if not source.exists():
        raise UserError(f"{source}: nothing here to import")
    tasks = FORMATS[format](source, [get_task(name).name for name in names])
    with sole_writer(folder), staging_folder(folder) as staging:
        index = DatasetIndex.read(folder) if (folder / INDEX).exists() else DatasetIndex({}, {})
        entries: dict[str, TaskEntry] = {}
        for task, trajectories in tasks:
            if task in index.tasks:
                raise UserError(f"{folder}: already holds {task}. Import into another folder.")
            entries[task] = _write(staging, source, format, task, trajectories)
            steps = entries[task].steps
            console.print(f"  {task:28s} {len(trajectories)} trajectories, {steps} steps")
        # Files first: a file that the index does not list yet does no harm.
        for task, entry in entries.items():
            os.replace(staging / entry.file, folder / entry.file)
            index.add(task, entry)
        index.write(folder)
    return index


def _write(
    staging: Path, source: Path, format: str, task: str, trajectories: list[Trajectory]
) -> TaskEntry:
    if len(trajectories) <= NUM_PROMPTS:
        raise UserError(
            f"{source}: {len(trajectories)} episodes of {task}, but at least {NUM_PROMPTS + 1} are "
            "needed: the last two are prompts"
        )
    made_by: Provenance = {"behaviour": "imported", "format": format, "source": source.name}
    return write_task(staging, get_task(task), trajectories, made_by)
