"""Import tasks into a dataset: read and check everything, then move the files into place."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from m3dt.behaviour.player import reference_return
from m3dt.data.format import INDEX, NUM_PROMPTS, DatasetIndex, Provenance, TaskEntry, write_task
from m3dt.data.importers.minari_files import read_minari
from m3dt.data.importers.readers import Tasks, read_npz, read_promptdt, read_tdmpc2
from m3dt.data.values import unusual_returns
from m3dt.tasks import Trajectory, get_task
from m3dt.utils.counts import counted
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
    source: Path,
    folder: Path,
    format: str,
    names: Sequence[str],
    console: Console,
    observation: Sequence[str] = (),
) -> DatasetIndex:
    """Add the tasks of another project's dataset, all if none is named, to ours.

    Our folder is created if it does not exist. A task that it lists is replaced only where its file
    is missing. The format is one of `FORMATS`. `observation` names
    keys of a Minari dataset whose observations are dictionaries; see `read_minari`.

    Raises:
        UserError: The source cannot be read, a check fails, or another process is writing to the
            dataset. The dataset is unchanged.
    """
    if not source.exists():
        raise UserError(f"{source}: nothing here to import")
    provenance: Provenance = {"behaviour": "imported", "format": format, "source": source.name}
    read = FORMATS[format]
    if observation:
        if format != "minari":
            raise UserError(f"--observation is for --format minari; {format} has no keys to choose")
        read = partial(read_minari, observation=observation)
        provenance["observation"] = list(observation)
    tasks = read(source, [get_task(name).name for name in names])
    with sole_writer(folder), staging_folder(folder) as staging:
        index = DatasetIndex.read(folder) if (folder / INDEX).exists() else DatasetIndex({}, {})
        entries: dict[str, TaskEntry] = {}
        for task, trajectories in tasks:
            if task in index.tasks and (folder / index.tasks[task].file).exists():
                others = ", or name the tasks that it lacks: --tasks LIST"
                remedy = "Import into another folder" + ("" if format == "minari" else others)
                raise UserError(f"{folder}: already holds {task}. {remedy}.")
            entries[task] = _write(staging, source, provenance, task, trajectories)
            _report(task, entries[task], trajectories, console)
        # Files first: a file that the index does not list yet does no harm.
        for task, entry in entries.items():
            os.replace(staging / entry.file, folder / entry.file)
            index.add(task, entry)
        index.write(folder)
    return index


def _write(
    staging: Path, source: Path, provenance: Provenance, task: str, trajectories: list[Trajectory]
) -> TaskEntry:
    if len(trajectories) <= NUM_PROMPTS:
        raise UserError(
            f"{source}: {counted(len(trajectories), 'episode')} of {task}, but at least "
            f"{NUM_PROMPTS + 1} are needed: the last two are prompts"
        )
    clipped = sum(int((np.abs(t.actions) > 1).any(axis=1).sum()) for t in trajectories)
    inside = [replace(t, actions=t.actions.clip(-1, 1)) for t in trajectories]
    made_by = provenance.copy()
    if clipped:
        made_by["clipped_actions"] = clipped
    spec = get_task(task)
    return write_task(staging, spec, inside, made_by, reference_return(spec))


def _report(
    task: str, entry: TaskEntry, trajectories: Sequence[Trajectory], console: Console
) -> None:
    sizes = f"{counted(entry.trajectories, 'trajectory')}, {counted(entry.steps, 'step')}"
    console.print(f"  {task:28s} {sizes}")
    clipped = entry.made_by.get("clipped_actions")
    if clipped:
        line = (
            f"{task}: the actions of {clipped} of {counted(entry.steps, 'step')} were outside "
            "[-1, 1] and were clipped, as the environments do."
        )
        console.print(f"  {line}", style="yellow", markup=False)
    unusual = unusual_returns(get_task(task), np.array([t.episode_return for t in trajectories]))
    if unusual:
        console.print(f"  {unusual}", style="yellow", markup=False)
