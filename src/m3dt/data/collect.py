"""Collect a dataset from the simulators: tasks in parallel, resumable, never half-written."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from importlib import metadata
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

from rich.console import Console
from rich.progress import Progress

from m3dt.behaviour import Library
from m3dt.config import CollectConfig
from m3dt.data.collect_task import Collector, made_by
from m3dt.data.format import COLLECTED, INDEX, DatasetIndex, TaskEntry, write_task
from m3dt.tasks import SIMULATORS, get_task
from m3dt.utils.console import progress_bar
from m3dt.utils.errors import UserError
from m3dt.utils.files import remove_temporaries
from m3dt.utils.folders import free_space, sole_writer
from m3dt.utils.processes import num_workers, process_pool


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
        UserError: The folder holds one of the tasks collected otherwise, a task has no behaviour
            policy, or another process is writing to the folder.
    """
    folder = Path(folder)
    library = Library(config.policies)
    index = _existing(folder, tasks, config, library)
    missing = [task for task in tasks if task not in index.tasks]
    for task in missing:
        made_by(get_task(task), config.seed, library)  # a policy that is missing shows at once
    if not missing:
        console.print(f"[green]{folder}[/] holds all {len(tasks)} tasks: nothing to collect.")
        return index
    with sole_writer(folder):
        index = _existing(folder, tasks, config, library)  # may have grown meanwhile
        missing = [task for task in tasks if task not in index.tasks]
        remove_temporaries(folder)
        _check_space(folder, missing, config)
        if missing:
            _collect_missing(folder, missing, index, config, console)
    return index


def _check_space(folder: Path, missing: list[str], config: CollectConfig) -> None:
    """Refuse to begin what would not fit: trajectories of full length, the most there can be."""
    steps = [(s.horizon, s.state_dim + s.action_dim + 1) for s in map(get_task, missing)]
    needed = config.trajectories * sum(4 * horizon * width for horizon, width in steps)
    free = free_space(folder)
    if free < needed:
        raise UserError(
            f"{folder}: {free / 2**20:,.0f} MiB are free, but {len(missing)} tasks take up to "
            f"{needed / 2**20:,.0f} MiB. Free space, give data=FOLDER on another disk, or collect "
            "fewer by collect.trajectories."
        )


def _collect_missing(
    folder: Path, missing: list[str], index: DatasetIndex, config: CollectConfig, console: Console
) -> None:
    library = Library(config.policies)
    workers = min(num_workers(config.workers), len(missing))
    played: Queue[int] = multiprocessing.get_context("spawn").Queue()
    total = len(missing) * config.trajectories
    with (
        progress_bar(console, "trajectories") as bar,
        process_pool(workers, _initialize, played) as pool,
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


def _existing(
    folder: Path, tasks: Sequence[str], config: CollectConfig, library: Library
) -> DatasetIndex:
    versions = {name: metadata.version(name) for name in (*SIMULATORS, "m3dt")}
    if not (folder / INDEX).exists():
        return DatasetIndex({}, versions)
    index = DatasetIndex.read(folder)
    index.versions.update({n: v for n, v in versions.items() if n not in index.versions})
    for task in tasks:
        entry = index.tasks.get(task)
        if entry is None:
            continue
        if entry.made_by.get("behaviour") not in COLLECTED:
            if not (folder / entry.file).is_file():
                raise UserError(
                    f"{folder}: {entry.file} was imported and is gone. Import it again into "
                    "another folder; collecting would put simulated data in its place."
                )
            continue  # not ours to judge
        if not (folder / entry.file).is_file():
            del index.tasks[task]  # someone deleted a damaged file: it is collected again
            continue
        found = (entry.trajectories, entry.made_by.get("seed"))
        if found != (config.trajectories, config.seed):
            raise UserError(
                f"{folder}: holds {task} with {found[0]} trajectories of seed {found[1]}, but "
                f"collect.trajectories={config.trajectories} and collect.seed={config.seed} are "
                "asked for. Give another folder with data=FOLDER, or delete this one."
            )
        if entry.made_by != json.loads(json.dumps(made_by(get_task(task), config.seed, library))):
            raise UserError(
                f"{folder}: holds {task} played by other policies or another ladder. Give another "
                "folder with data=FOLDER, or delete this one."
            )
    return index


def _watch(
    futures: dict[Future[TaskEntry], str],
    played: Queue[int],
    bar: Progress,
    row: Any,
) -> Iterator[Future[TaskEntry]]:
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
    played.cancel_join_thread()  # counts that nobody reads must not keep a worker
    _played = played


def _collect_task(task: str, folder: Path, count: int, seed: int, library: Library) -> TaskEntry:
    spec = get_task(task)
    collector = Collector(spec, seed, library)
    trajectories = []
    for number in range(count):
        trajectories.append(collector.trajectory(number, count))
        if _played is not None:
            _played.put(1)
    return write_task(folder, task, spec.env_id, trajectories, made_by(spec, seed, library))
