"""Check the files of a dataset: all that can be recomputed is compared."""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TypedDict

import numpy as np

from m3dt.data.format import DatasetIndex, TaskEntry
from m3dt.data.remedies import made_again
from m3dt.data.soundness import index_problems, value_problems
from m3dt.data.store import TaskStore
from m3dt.data.values import unusual_returns
from m3dt.tasks import get_task
from m3dt.utils.counts import agreeing, counted
from m3dt.utils.errors import UserError
from m3dt.utils.files import sha256

_CHUNK = 1_000_000  # transitions summed at a time


class VerifyReport(TypedDict):
    """Counts over a dataset, one message per problem, and one per finding that may be intended."""

    folder: str
    tasks: int
    trajectories: int
    steps: int
    problems: list[str]
    notes: list[str]


def verify(folder: Path) -> VerifyReport:
    """Check every file that a dataset lists.

    Raises:
        UserError: There is no dataset.
    """
    index = DatasetIndex.read(folder)
    problems: list[str] = []
    notes: list[str] = []
    seen: dict[bytes, str] = {}  # the task in which a trajectory was first found
    for task, entry in index.tasks.items():
        try:
            again = made_again(folder, task, entry)
            store = TaskStore.open(folder / entry.file, get_task(task), again)
        except UserError as error:
            problems.append(str(error))
            continue
        found = chain(
            _changed(store, entry),
            index_problems(store, entry),
            value_problems(store, slice(0, len(store.rewards))),
            _trajectory_problems(store),
            _statistics_problems(store),
            _shared_trajectories(store, seen),
        )
        wrong = [f"{store.path}: {problem}" for problem in found]
        wrong[-1:] = [f"{last}. Delete it and {again}." for last in wrong[-1:]]
        problems += wrong
        if not wrong:
            notes += [f"{store.path}: {note}" for note in _notes(store)]
    return {
        "folder": str(folder),
        "tasks": len(index.tasks),
        "trajectories": sum(entry.trajectories for entry in index.tasks.values()),
        "steps": sum(entry.steps for entry in index.tasks.values()),
        "problems": problems,
        "notes": notes,
    }


def _changed(store: TaskStore, entry: TaskEntry) -> Iterator[str]:
    if sha256(store.path) != entry.sha256:
        yield "its checksum differs from the index"


def _trajectory_problems(store: TaskStore) -> Iterator[str]:
    horizon = store.spec.horizon
    lengths = np.diff(store.episode_ends, prepend=0)
    long = np.flatnonzero(lengths > horizon)
    if len(long):
        yield (
            f"{counted(len(long), 'trajectory')} {agreeing(len(long), 'is', 'are')} longer than "
            f"{counted(horizon, 'step')}, the horizon of "
            f"{store.spec.name}; trajectory {long[0]} has {lengths[long[0]]}"
        )
    sums = np.add.reduceat(store.rewards.astype(np.float64), store.episode_starts)
    wrong = np.flatnonzero(~np.isclose(sums, store.episode_returns, rtol=1e-4, atol=1e-2))
    if len(wrong):
        yield (
            f"'episode_returns' are not the sums of 'rewards', first in trajectory "
            f"{wrong[0]}: {store.episode_returns[wrong[0]]:.6g} instead of {sums[wrong[0]]:.6g}"
        )


def _statistics_problems(store: TaskStore) -> Iterator[str]:
    """Compute mean and standard deviation of the training states again, piece by piece."""
    steps = store.num_training_steps
    pieces = [slice(i, min(i + _CHUNK, steps)) for i in range(0, steps, _CHUNK)]
    mean = sum(store.observations[p].sum(axis=0, dtype=np.float64) for p in pieces) / steps
    with np.errstate(invalid="ignore"):  # values that are not finite are a problem of their own
        squares = sum(((store.observations[p] - mean) ** 2).sum(axis=0) for p in pieces)
    computed = {"state_mean": mean, "state_std": np.sqrt(squares / steps)}
    for name, value in computed.items():
        stored = getattr(store, name)
        wrong = np.flatnonzero(~np.isclose(stored, value, rtol=1e-5, atol=1e-6))
        if len(wrong):
            at = wrong[0]
            yield (
                f"'{name}' is not that of the training trajectories, first in "
                f"dimension {at}: {stored[at]:.6g} instead of {value[at]:.6g}"
            )


def _digests(store: TaskStore) -> list[bytes]:
    """Return a hash of each trajectory."""
    digests = []
    for start, end in zip(store.episode_starts, store.episode_ends, strict=True):
        digest = blake2b(digest_size=16)
        for array in (store.observations, store.actions, store.rewards):
            digest.update(np.ascontiguousarray(array[start:end]).data)
        digests.append(digest.digest())
    return digests


def _shared_trajectories(store: TaskStore, seen: dict[bytes, str]) -> Iterator[str]:
    """Compare the trajectories with those of the tasks before, and add them."""
    task = store.spec.name
    shared = [seen[d] for d in _digests(store) if seen.setdefault(d, task) != task]
    if shared:
        those = agreeing(len(shared), "is also one", "are also those")
        yield f"{counted(len(shared), 'trajectory')} {those} of {shared[0]}"


def _notes(store: TaskStore) -> Iterator[str]:
    """Yield findings about sound data that their owner should know."""
    repeated = len(store.episode_ends) - len(set(_digests(store)))
    if repeated:
        others = agreeing(repeated, "repeats another one", "repeat others")
        yield f"{counted(repeated, 'trajectory')} {others} of the task"
    unusual = unusual_returns(store.spec, store.episode_returns)
    if unusual:
        yield unusual
