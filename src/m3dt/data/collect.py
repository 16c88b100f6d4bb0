"""Collect a dataset from the simulators: tasks in parallel, resumable, never half-written."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from importlib import metadata
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

from rich.console import Console
from rich.progress import Progress

from m3dt.behaviour import Library
from m3dt.config import CollectConfig
from m3dt.console import progress_bar
from m3dt.data.format import COLLECTED, INDEX, DatasetIndex, TaskEntry, write_task
from m3dt.errors import UserError
from m3dt.files import remove_temporaries
from m3dt.tasks import SIMULATORS, get_task


def collect(
    folder: str | Path, tasks: Sequence[str], config: CollectConfig, console: Console
) -> DatasetIndex:
    """Collect the tasks that a dataset folder lacks.

    Args:
        folder: The dataset's folder, created if need be.
        tasks: Names of the tasks it shall hold.
        config: How many trajectories, by how many processes, from which seed.
        console: Where progress is shown.

    Raises:
        UserError: The folder holds one of the tasks collected otherwise, or a task has no
            behaviour policy.
    """
    folder = Path(folder)
    index = _existing(folder, tasks, config)
    missing = [task for task in tasks if task not in index.tasks]
    library = Library(config.policies)
    for task in missing:
        library.require(get_task(task))  # what is missing should not show after an hour
    if not missing:
        console.print(f"[green]{folder}[/] holds all {len(tasks)} tasks: nothing to collect.")
        return index
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder)
    workers = min(config.workers or os.cpu_count() or 1, len(missing))
    context = multiprocessing.get_context("spawn")
    played: Queue[int] = context.Queue()
    total = len(missing) * config.trajectories
    with (
        progress_bar(console, "trajectories") as bar,
        ProcessPoolExecutor(workers, context, _initialize, (played,)) as pool,
    ):
        row = bar.add_task(f"collecting {len(missing)} tasks", total=total)
        arguments = (folder, config.trajectories, config.seed, library)
        futures = {pool.submit(_collect_task, task, *arguments): task for task in missing}
        for future in _watch(futures, played, bar, row):
            task, entry = futures[future], future.result()
            index.add(task, entry)
            index.write(folder)
            quartiles = " .. ".join(f"{value:5.0f}" for value in entry.return_quartiles)
            success = ""
            if get_task(task).domain == "metaworld":
                success = f"   success {entry.success_rate:4.0%}"
            console.print(f"  {task:28s} returns {quartiles}{success}")
    return index


def _existing(folder: Path, tasks: Sequence[str], config: CollectConfig) -> DatasetIndex:
    if not (folder / INDEX).exists():
        versions = {name: metadata.version(name) for name in (*SIMULATORS, "m3dt")}
        return DatasetIndex({}, versions)
    index = DatasetIndex.read(folder)
    for task in tasks:
        entry = index.tasks.get(task)
        if entry is None:
            continue
        if not (folder / entry.file).is_file():
            del index.tasks[task]  # someone deleted a damaged file: it is collected again
            continue
        if entry.made_by.get("behaviour") not in COLLECTED:
            continue  # not ours to judge
        found = (entry.trajectories, entry.made_by.get("seed"))
        if found != (config.trajectories, config.seed):
            raise UserError(
                f"{folder}: holds {task} with {found[0]} trajectories of seed {found[1]}, but "
                f"collect.trajectories={config.trajectories} and collect.seed={config.seed} are "
                "asked for. Give another folder with data=FOLDER, or delete this one."
            )
    return index


def _watch(
    futures: dict[Future[TaskEntry], str], played: Queue[int], bar: Progress, row: Any
) -> Any:
    """Yield futures as they finish, moving the bar while none does."""
    waiting = set(futures)
    while waiting:
        try:
            bar.advance(row, played.get(timeout=0.2))
        except Empty:
            pass
        for future in [f for f in waiting if f.done()]:
            waiting.remove(future)
            yield future


_played: Queue[int] | None = None


def _initialize(played: Queue[int]) -> None:
    global _played
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    _played = played


def _collect_task(task: str, folder: Path, count: int, seed: int, library: Library) -> TaskEntry:
    from m3dt.data.collector import Collector  # loads the simulator, in the worker alone

    spec = get_task(task)
    collector = Collector(spec, seed, library)
    trajectories = []
    for number in range(count):
        trajectories.append(collector.trajectory(number, count))
        if _played is not None:
            _played.put(1)
    return write_task(folder, task, spec.env_id, trajectories, collector.made_by())
