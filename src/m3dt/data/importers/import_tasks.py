"""Import a dataset: everything is read and checked before anything takes its place."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from m3dt.data.format import INDEX, NUM_PROMPTS, DatasetIndex, TaskEntry, write_task
from m3dt.data.importers.readers import Tasks, read_minari, read_npz, read_promptdt, read_tdmpc2
from m3dt.tasks import get_task
from m3dt.utils.errors import UserError
from m3dt.utils.folders import sole_writer, staging_folder

FORMATS: dict[str, Callable[[Path, Sequence[str]], Tasks]] = {
    "npz": read_npz,
    "tdmpc2": read_tdmpc2,
    "promptdt": read_promptdt,
    "minari": read_minari,
}
"""By name; each reads a source and yields tasks with their trajectories."""


def import_dataset(
    source: Path, folder: Path, kind: str, names: Sequence[str], console: Console
) -> DatasetIndex:
    """Add the tasks of a source to a dataset.

    Args:
        source: File or folder in the format of another project.
        folder: Our dataset, created if need be.
        kind: One of `FORMATS`.
        names: Which tasks to take; none means all.
        console: Where tasks are told.

    Raises:
        UserError: The source cannot be read, a check fails, or another process is writing to the
            dataset; it is as it was.
    """
    if not source.exists():
        raise UserError(f"{source}: nothing here to import")
    with sole_writer(folder), staging_folder(folder) as staging:
        index = DatasetIndex.read(folder) if (folder / INDEX).exists() else DatasetIndex({}, {})
        entries: dict[str, TaskEntry] = {}
        for task, trajectories in FORMATS[kind](source, [get_task(n).name for n in names]):
            if task in index.tasks:
                raise UserError(f"{folder}: holds {task} already. Import into another folder.")
            if len(trajectories) <= NUM_PROMPTS:
                raise UserError(
                    f"{source}: {len(trajectories)} episodes of {task}; at least {NUM_PROMPTS + 1} "
                    "are needed, of which the last two are prompts"
                )
            made_by = {"behaviour": "imported", "format": kind, "source": source.name}
            env_id = get_task(task).env_id
            entry = write_task(staging, task, env_id, trajectories, made_by)
            console.print(f"  {task:28s} {entry.trajectories} trajectories, {entry.steps} steps")
            entries[task] = entry
        # Files take their places first: those that the index does not list do no harm.
        for entry in entries.values():
            os.replace(staging / entry.file, folder / entry.file)
        for task, entry in entries.items():
            index.add(task, entry)
        index.write(folder)
    return index
