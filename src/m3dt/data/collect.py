"""Collect a dataset from the simulators: in parallel, resumable, atomic per task."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID

from m3dt.behaviour import Ladder, Library, Player
from m3dt.behaviour.player import reference_return
from m3dt.config import CollectConfig
from m3dt.data.format import (
    COLLECTED,
    INDEX,
    NUM_PROMPTS,
    DatasetIndex,
    Provenance,
    TaskEntry,
    write_task,
)
from m3dt.data.remedies import made_again
from m3dt.tasks import SIMULATORS, TaskSpec, Trajectory, get_task
from m3dt.tasks.registration import import_in_worker, plugin_modules
from m3dt.utils.console import progress_bar
from m3dt.utils.counts import agreeing, counted
from m3dt.utils.errors import UserError
from m3dt.utils.files import free_space, remove_temporaries, sole_writer
from m3dt.utils.paths import user_path
from m3dt.utils.processes import num_workers, process_pool
from m3dt.utils.shards import ALL, parse_shard
from m3dt.utils.shared_writers import common_file, shared_writer
from m3dt.version import version_of

_MAX_ATTEMPTS = 5  # per demonstration


def collect(
    folder: str | Path,
    tasks: Sequence[str],
    config: CollectConfig,
    console: Console,
    shard: str = ALL,
) -> DatasetIndex:
    """Collect the tasks that a dataset lacks; its folder is created if it does not exist.

    With a shard `i/n`, this is every n-th task from the i-th; other processes may collect the
    other shards at the same time. The data are the same in any case.

    Raises:
        UserError: A task was collected with other settings or has no behaviour policy, the disk has
            too little space, `shard` is malformed, or another process is writing to the folder or
            collects the same tasks.
    """
    folder = user_path(folder)
    first, count = parse_shard(shard)
    mine = tasks[first::count]
    of_shard = f" of shard {shard}" if count > 1 else ""
    library = Library(config.policies)
    index = _read_index(folder, tasks, config)
    missing = [task for task in mine if task not in index.tasks]
    for task in missing:
        provenance(get_task(task), config.seed, library)  # fail early if a policy is missing
    if not missing:
        whole = agreeing(len(mine), "the 1 task", f"all {len(mine)} tasks")
        held = f"{folder} contains {whole}{of_shard}" if mine else f"no task is{of_shard}"
        console.print(f"{held}: nothing to collect.")
        return index
    with shared_writer(folder, mine) if of_shard else sole_writer(folder):
        index = _read_index(folder, tasks, config)  # another process may have added tasks
        missing = [task for task in mine if task not in index.tasks]
        if not of_shard:
            remove_temporaries(folder)
        _check_space(folder, [task for task in tasks if task not in index.tasks], config)
        if missing:
            add = _add_to_shared if of_shard else _add
            _collect_missing(folder, missing, index, config, console, add)
    if of_shard:
        index = _read_index(folder, tasks, config)
        console.print(_left(folder, shard, [task for task in tasks if task not in index.tasks]))
    return index


def _left(folder: Path, shard: str, missing: Sequence[str]) -> str:
    done = f"{folder}: shard {shard} is collected"
    if not missing:
        return f"{done}, and so are all others."
    are = agreeing(len(missing), "is", "are")
    tasks = f"{counted(len(missing), 'task')} of other shards {are} missing"
    return f"{done}; {tasks}: {', '.join(missing)}."


def _add(folder: Path, index: DatasetIndex, task: str, entry: TaskEntry) -> None:
    index.add(task, entry)
    index.write(folder)


def _add_to_shared(folder: Path, index: DatasetIndex, task: str, entry: TaskEntry) -> None:
    """Add a task to an index that other processes add theirs to."""
    with common_file(folder):
        found = DatasetIndex.read(folder) if (folder / INDEX).exists() else DatasetIndex({}, {})
        found.versions.update({n: v for n, v in index.versions.items() if n not in found.versions})
        _add(folder, found, task, entry)


def _read_index(folder: Path, tasks: Sequence[str], config: CollectConfig) -> DatasetIndex:
    """Return the index, without those of the tasks that need collecting again."""
    versions = {name: version_of(name) for name in (*SIMULATORS, "m3dt")}
    if not (folder / INDEX).exists():
        return DatasetIndex({}, versions)
    index = DatasetIndex.read(folder)
    index.versions.update({n: v for n, v in versions.items() if n not in index.versions})
    for task in tasks:
        if task in index.tasks and not _is_complete(folder, task, index.tasks[task], config):
            del index.tasks[task]
    return index


def _is_complete(folder: Path, task: str, entry: TaskEntry, config: CollectConfig) -> bool:
    """Return whether a task's file exists, after comparing its settings with `config`."""
    exists = (folder / entry.file).is_file()
    if entry.made_by.get("behaviour") not in COLLECTED:
        if not exists:
            raise UserError(
                f"{folder}: {entry.file} was imported and is missing; collecting would replace it "
                f"with simulated data. To restore it, {made_again(folder, task, entry)}."
            )
        return True  # any settings: they do not apply to imported data
    if not exists:
        return False  # the user deleted a damaged file
    remedy = "Give another folder with data=FOLDER, or delete this one."
    found = (entry.trajectories, entry.made_by.get("seed"))
    if found != (config.trajectories, config.seed):
        size = counted(found[0], "trajectory")
        raise UserError(
            f"{folder}: contains {task} with {size} and seed {found[1]}, not with "
            f"collect.trajectories={config.trajectories} and collect.seed={config.seed}. {remedy}"
        )
    expected = provenance(get_task(task), config.seed, Library(config.policies))
    if entry.made_by != json.loads(json.dumps(expected)):
        raise UserError(
            f"{folder}: contains {task}, collected with other policies or another ladder. {remedy}"
        )
    return True


def _check_space(folder: Path, missing: list[str], config: CollectConfig) -> None:
    """Check the free space for trajectories of full length, the largest possible size."""
    steps = [(s.horizon, s.state_dim + s.action_dim + 1) for s in map(get_task, missing)]
    needed = config.trajectories * sum(4 * horizon * width for horizon, width in steps)
    free = free_space(folder)
    if free < needed:
        raise UserError(
            f"{folder}: {free / 2**20:,.0f} MiB are free, but {counted(len(missing), 'task')} "
            f"{agreeing(len(missing), 'takes', 'take')} up to "
            f"{needed / 2**20:,.0f} MiB. Free space, give data=FOLDER on another disk, or reduce "
            "collect.trajectories."
        )


def _collect_missing(
    folder: Path,
    missing: list[str],
    index: DatasetIndex,
    config: CollectConfig,
    console: Console,
    add: Callable[[Path, DatasetIndex, str, TaskEntry], None],
) -> None:
    workers = min(num_workers(config.workers), len(missing))
    played: Queue[int] = multiprocessing.get_context("spawn").Queue()
    total = len(missing) * config.trajectories
    with (
        progress_bar(console, "trajectories") as bar,
        process_pool(workers, _initialize, played, plugin_modules()) as pool,
    ):
        row = bar.add_task(f"collecting {counted(len(missing), 'task')}", total=total)
        futures = {pool.submit(_collect_task, folder, task, config): task for task in missing}
        for future in _as_completed(futures, played, bar, row):
            task, entry = futures[future], future.result()
            add(folder, index, task, entry)
            console.print(_summary(task, entry))


def _summary(task: str, entry: TaskEntry) -> str:
    quartiles = " .. ".join(f"{value:5.0f}" for value in entry.return_quartiles)
    is_metaworld = get_task(task).domain == "metaworld"
    success = f"   success {entry.success_rate:4.0%}" if is_metaworld else ""
    return f"  {task:28s} returns {quartiles}{success}"


def _as_completed(
    futures: dict[Future[TaskEntry], str], played: Queue[int], bar: Progress, row: TaskID
) -> Iterator[Future[TaskEntry]]:
    """Yield futures as they complete, and meanwhile advance the bar by the trajectories played."""
    waiting = set(futures)
    while waiting:
        try:
            bar.advance(row, played.get(timeout=0.2))
        except Empty:
            pass
        for future in [f for f in waiting if f.done()]:
            waiting.remove(future)
            yield future


_played: Queue[int] | None = None  # set in each worker, to report its trajectories


def _initialize(played: Queue[int], plugins: Sequence[str]) -> None:
    global _played
    import_in_worker(plugins)
    played.cancel_join_thread()  # let the worker exit even if nobody reads its counts
    _played = played


def _collect_task(folder: Path, task: str, config: CollectConfig) -> TaskEntry:
    spec, library = get_task(task), Library(config.policies)
    collector = TaskCollector(spec, config.seed, library)
    trajectories = []
    for number in range(config.trajectories):
        trajectories.append(collector.trajectory(number, config.trajectories))
        if _played is not None:
            _played.put(1)
    made_by = provenance(spec, config.seed, library)
    return write_task(folder, spec, trajectories, made_by, reference_return(spec))


def provenance(spec: TaskSpec, seed: int, library: Library) -> Provenance:
    """Describe how a task's trajectories are collected, for the dataset's index.

    Raises:
        UserError: The task has no behaviour policy.
    """
    return {"seed": seed, **Ladder(spec, library).describe()}


class TaskCollector:
    """Plays the trajectories of one task; each is a pure function of (seed, task, number)."""

    def __init__(self, spec: TaskSpec, seed: int, library: Library) -> None:
        self.spec = spec
        self.seed = seed
        self.player = Player(spec, library)

    def trajectory(self, number: int, count: int) -> Trajectory:
        """Play trajectory `number` of `count`.

        The last ones are demonstrations, used as prompts. The others are divided evenly among the
        rungs of the task's ladder, in shuffled order.
        """
        if number >= count - NUM_PROMPTS:
            return self._demonstration(number)
        rungs = self.player.ladder.rungs
        order = self._rng(0).permutation(count - NUM_PROMPTS)
        rung = rungs[order[number] * len(rungs) // len(order)]
        return self.player.play(rung, self._rng(1, number))

    def _demonstration(self, number: int) -> Trajectory:
        """Play the best policy without noise, so that the prompt shows the task being solved.

        In Meta-World, return the first success. The other domains define no success: return the
        attempt with the highest return.
        """
        attempts: list[Trajectory] = []
        while len(attempts) < _MAX_ATTEMPTS and not (attempts and attempts[-1].success):
            rng = self._rng(2, number, len(attempts))
            attempts.append(self.player.play(self.player.ladder.best, rng))
        if self.spec.domain == "metaworld":
            return attempts[-1]
        return max(attempts, key=lambda trajectory: trajectory.episode_return)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *self.spec.name.encode(), *key))
