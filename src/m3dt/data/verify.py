"""Check the files of a dataset: layout, checksums, values."""

from pathlib import Path
from typing import TypedDict

import numpy as np

from m3dt.data.format import DatasetIndex, TaskEntry
from m3dt.data.store import TaskStore
from m3dt.tasks import get_task
from m3dt.utils.errors import UserError
from m3dt.utils.files import sha256

_CHUNK = 1_000_000  # transitions checked at a time


class VerifyReport(TypedDict):
    """Counts over a dataset, and one message per problem."""

    folder: str
    tasks: int
    trajectories: int
    steps: int
    problems: list[str]


def verify(folder: Path) -> VerifyReport:
    """Check every file that a dataset lists.

    Raises:
        UserError: There is no dataset.
    """
    index = DatasetIndex.read(folder)
    problems: list[str] = []
    for task, entry in index.tasks.items():
        try:
            problems += _check(folder / entry.file, task, entry)
        except UserError as error:
            problems.append(str(error))
    return {
        "folder": str(folder),
        "tasks": len(index.tasks),
        "trajectories": sum(entry.trajectories for entry in index.tasks.values()),
        "steps": sum(entry.steps for entry in index.tasks.values()),
        "problems": problems,
    }


def _check(path: Path, task: str, entry: TaskEntry) -> list[str]:
    store = TaskStore.open(path, get_task(task))
    problems = []
    if sha256(path) != entry.sha256:
        problems.append(f"{path}: its checksum differs from the index")
    if len(store.episode_ends) != entry.trajectories or len(store.rewards) != entry.steps:
        problems.append(
            f"{path}: {len(store.episode_ends)} trajectories with {len(store.rewards)} steps, but "
            f"the index says {entry.trajectories} with {entry.steps}"
        )
    for name in ("observations", "actions", "rewards"):
        array = getattr(store, name)
        for start in range(0, len(array), _CHUNK):
            if not np.isfinite(array[start : start + _CHUNK]).all():
                problems.append(f"{path}: '{name}' has values that are not finite")
                break
    sums = np.add.reduceat(store.rewards.astype(np.float64), store.episode_starts)
    if not np.allclose(sums, store.episode_returns, rtol=1e-4, atol=1e-2):
        problems.append(f"{path}: 'episode_returns' are not the sums of 'rewards'")
    return problems
