"""The dataset on disk: one HDF5 file a task, and `dataset.json` that describes them.

Letters: N transitions, M trajectories, S state, A action (both the task's native widths).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from m3dt.tasks import TASKS, Trajectory
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, fingerprint, sha256, write_json

SCHEMA_VERSION = 1
INDEX = "dataset.json"
COLLECTED = ("scripted", "learned")  # the behaviours that `m3dt collect` records
# The last trajectories of a task are its prompts (paper appendix B).
NUM_PROMPTS = 2
_QUARTILES = (0, 0.25, 0.5, 0.75, 1)


@dataclass(frozen=True)
class TaskEntry:
    """A task's line in `dataset.json`."""

    file: str
    env_id: str
    trajectories: int
    steps: int
    sha256: str
    return_quartiles: list[float]
    """Smallest, 25 %, median, 75 % and largest episode return."""
    success_rate: float | None
    """None where a source did not record success; the file then says 0."""
    made_by: dict[str, Any]
    """How the trajectories came to be: the behaviour, its settings and its seed."""


@dataclass(frozen=True)
class DatasetIndex:
    """The content of `dataset.json`."""

    tasks: dict[str, TaskEntry]
    versions: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    def add(self, task: str, entry: TaskEntry) -> None:
        """Add or replace a task; the order of tasks is the catalogue's, however they came."""
        self.tasks[task] = entry
        for name in [name for name in TASKS if name in self.tasks]:
            self.tasks[name] = self.tasks.pop(name)

    def write(self, folder: Path) -> None:
        write_json(folder / INDEX, asdict(self))

    def checksum(self, tasks: Sequence[str]) -> str:
        """Return one hash of the named tasks' data."""
        return fingerprint({task: self.tasks[task].sha256 for task in tasks})

    @classmethod
    def read(cls, folder: Path) -> DatasetIndex:
        """Read the index of a dataset.

        Raises:
            UserError: There is none, or it cannot be understood.
        """
        path = folder / INDEX
        if not path.is_file():
            raise UserError(f"{folder}: no dataset here. Collect one with `m3dt collect`.")
        try:
            content = json.loads(path.read_text())
            version = content["schema_version"]
            if version == SCHEMA_VERSION:
                tasks = {name: TaskEntry(**entry) for name, entry in content["tasks"].items()}
                return cls(tasks, content["versions"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a dataset index ({error!r})") from None
        raise UserError(
            f"{path}: schema version {version}, but this m3dt reads {SCHEMA_VERSION}. "
            "Update m3dt or collect the dataset again."
        )


def write_task(
    folder: Path,
    task: str,
    env_id: str,
    trajectories: Sequence[Trajectory],
    made_by: dict[str, Any],
) -> TaskEntry:
    """Write a task's trajectories as one HDF5 file, atomically, and return its index entry.

    The file is uncompressed and contiguous, so that readers can map it into memory. Mean and
    standard deviation of the states, over the training trajectories, stand in its attributes.
    """
    lengths = [len(trajectory.rewards) for trajectory in trajectories]
    ends = np.cumsum(lengths)
    observations = np.concatenate([t.observations for t in trajectories]).astype(np.float32)
    rewards = np.concatenate([t.rewards for t in trajectories]).astype(np.float32)
    returns = np.array([t.episode_return for t in trajectories], np.float32)
    successes = np.array([bool(t.success) for t in trajectories], np.uint8)
    known = all(t.success is not None for t in trajectories)
    training = observations[: ends[-1 - NUM_PROMPTS]].astype(np.float64)
    path = folder / f"{task}.hdf5"
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w") as file:
            file["observations"] = observations
            file["actions"] = np.concatenate([t.actions for t in trajectories]).astype(np.float32)
            file["rewards"] = rewards
            file["episode_ends"] = ends.astype(np.int64)
            file["episode_returns"] = returns
            file["successes"] = successes
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["task"] = task
            file.attrs["env_id"] = env_id
            file.attrs["state_mean"] = training.mean(axis=0)
            file.attrs["state_std"] = training.std(axis=0)
    return TaskEntry(
        file=path.name,
        env_id=env_id,
        trajectories=len(trajectories),
        steps=int(ends[-1]),
        sha256=sha256(path),
        return_quartiles=[round(float(q), 2) for q in np.quantile(returns, _QUARTILES)],
        success_rate=round(float(successes.mean()), 4) if known else None,
        made_by=made_by,
    )
