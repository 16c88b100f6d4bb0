"""A dataset on disk: one HDF5 file per task, and the index `dataset.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

from m3dt.behaviour.ladder import BehaviourDescription
from m3dt.tasks import TASKS, TaskSpec, Trajectory
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, fingerprint, sha256, write_json

SCHEMA_VERSION = 1
INDEX = "dataset.json"
COLLECTED = ("scripted", "learned")  # behaviours of collected, not imported, tasks
NUM_PROMPTS = 2  # the last trajectories of a task are its prompts (paper appendix B)
_QUARTILES = (0, 0.25, 0.5, 0.75, 1)


class Provenance(BehaviourDescription, total=False):
    """How a task's trajectories were made: by a behaviour and a seed, or by an import."""

    seed: int
    format: str
    source: str


@dataclass(frozen=True)
class TaskEntry:
    """A task in `dataset.json`."""

    file: str
    env_id: str
    trajectories: int
    steps: int
    sha256: str
    return_quartiles: list[float]
    """Smallest, 25 %, median, 75 % and largest episode return."""
    success_rate: float | None
    """None if the source did not record success; the file then contains zeros."""
    made_by: Provenance


@dataclass(frozen=True)
class DatasetIndex:
    """The content of `dataset.json`."""

    tasks: dict[str, TaskEntry]
    versions: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    def add(self, task: str, entry: TaskEntry) -> None:
        """Add or replace a task; tasks are kept in the catalogue's order."""
        self.tasks[task] = entry
        for name in [name for name in TASKS if name in self.tasks]:
            self.tasks[name] = self.tasks.pop(name)

    def write(self, folder: Path) -> None:
        write_json(folder / INDEX, asdict(self))

    def checksum(self, tasks: Sequence[str]) -> str:
        """Return one hash over the data of the named tasks."""
        return fingerprint({task: self.tasks[task].sha256 for task in tasks})

    @classmethod
    def read(cls, folder: Path) -> DatasetIndex:
        """Read the index of a dataset.

        Raises:
            UserError: It is missing, not valid, or of another schema version.
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
    folder: Path, spec: TaskSpec, trajectories: Sequence[Trajectory], made_by: Provenance
) -> TaskEntry:
    """Write a task's trajectories to one HDF5 file, atomically, and return its index entry.

    Datasets are contiguous and uncompressed, so that readers can map them into memory. Attributes
    hold mean and standard deviation of the states over the training trajectories.
    """
    arrays = _concatenate(trajectories)
    ends = arrays["episode_ends"]
    training = arrays["observations"][: ends[-1 - NUM_PROMPTS]].astype(np.float64)
    path = folder / f"{spec.name}.hdf5"
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w") as file:
            for name, array in arrays.items():
                file[name] = array
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["task"] = spec.name
            file.attrs["env_id"] = spec.env_id
            file.attrs["state_mean"] = training.mean(axis=0)
            file.attrs["state_std"] = training.std(axis=0)
    quartiles = np.quantile(arrays["episode_returns"], _QUARTILES)
    success_known = all(t.success is not None for t in trajectories)
    return TaskEntry(
        file=path.name,
        env_id=spec.env_id,
        trajectories=len(trajectories),
        steps=int(ends[-1]),
        sha256=sha256(path),
        return_quartiles=[round(float(value), 2) for value in quartiles],
        success_rate=round(float(arrays["successes"].mean()), 4) if success_known else None,
        made_by=made_by,
    )


def _concatenate(trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    """Return the datasets of a task's file, in the order they are written."""
    returns = [t.episode_return for t in trajectories]
    return {
        "observations": np.concatenate([t.observations for t in trajectories], dtype=np.float32),
        "actions": np.concatenate([t.actions for t in trajectories], dtype=np.float32),
        "rewards": np.concatenate([t.rewards for t in trajectories], dtype=np.float32),
        "episode_ends": np.cumsum([len(t.rewards) for t in trajectories], dtype=np.int64),
        "episode_returns": np.array(returns, np.float32),
        "successes": np.array([bool(t.success) for t in trajectories], np.uint8),
    }
