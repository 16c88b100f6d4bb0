"""A dataset on disk: one HDF5 file per task, and the index `dataset.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from m3dt.behaviour.ladder import BehaviourDescription
from m3dt.data.values import unsound
from m3dt.tasks import TASKS, TaskSpec, Trajectory
from m3dt.utils.errors import RunError, UserError
from m3dt.utils.files import atomic_path, fingerprint, sha256, write_json
from m3dt.utils.paths import file_stem
from m3dt.utils.regular_files import regular_file

SCHEMA_VERSION = 1
INDEX = "dataset.json"
# Behaviours of collected, not imported, tasks.
COLLECTED = ("scripted", "learned", "policy", "random")
NUM_PROMPTS = 2  # the last trajectories of a task are its prompts (paper appendix B)
_QUARTILES = (0, 0.25, 0.5, 0.75, 1)


class Provenance(BehaviourDescription, total=False):
    """How a task's trajectories were made: by a behaviour and a seed, or by an import."""

    seed: int
    format: str
    source: str
    observation: list[str]  # keys of the source's dictionaries, if an import chose some
    clipped_actions: int  # number of steps whose actions an import moved into [-1, 1]


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
    random_return: float | None = None
    """Mean return of random actions, for a task whose score follows from the data."""


@dataclass(frozen=True)
class DatasetIndex:
    """The content of `dataset.json`."""

    tasks: dict[str, TaskEntry]
    versions: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    def add(self, task: str, entry: TaskEntry) -> None:
        """Add or replace a task; a user's own are kept by name, then others as in the catalogue."""
        self.tasks[task] = entry
        own = sorted(name for name in self.tasks if name not in TASKS)
        for name in [*own, *(name for name in TASKS if name in self.tasks)]:
            self.tasks[name] = self.tasks.pop(name)

    def write(self, folder: Path) -> None:
        write_json(folder / INDEX, asdict(self))

    def checksum(self, tasks: Sequence[str]) -> str:
        """Return one hash over the data of the named tasks."""
        return fingerprint({task: self.tasks[task].sha256 for task in tasks})

    @classmethod
    def read(cls, folder: Path, collected_by: str = "") -> DatasetIndex:
        """Read the index of a dataset. `collected_by` is the command that collects it.

        Raises:
            UserError: It is missing, not valid, or of another schema version.
        """
        path = folder / INDEX
        try:
            text = regular_file(path, folder).read_bytes()
        except FileNotFoundError:
            command = collected_by or f"m3dt collect --conf NAME data={folder}"
            raise UserError(f"{folder}: no dataset here. Collect one with `{command}`.") from None
        try:
            content = json.loads(text, object_pairs_hook=_without_repeats)
            version = content["schema_version"]
            if version == SCHEMA_VERSION:
                return cls(_checked_tasks(content["tasks"]), _checked_versions(content["versions"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: not a dataset index ({error!r})") from None
        raise UserError(
            f"{path}: schema version {version!r}, but this m3dt reads {SCHEMA_VERSION}. "
            "Update m3dt or collect the dataset again."
        )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{', '.join(map(repr, repeated))} is there twice")
    return dict(pairs)


def _checked_tasks(content: Any) -> dict[str, TaskEntry]:
    if not isinstance(content, dict):
        raise TypeError(f"'tasks' is {content!r:.60}")
    tasks = {name: _checked_entry(name, entry) for name, entry in content.items()}
    files: dict[str, str] = {}
    for name, entry in tasks.items():
        other = files.setdefault(entry.file, name)
        if other != name:
            raise ValueError(f"{other} and {name} are both in {entry.file}")
    return tasks


def _checked_entry(task: str, content: Any) -> TaskEntry:
    """Return a task's entry after checking the type and range of each field."""
    if not isinstance(content, dict):
        raise TypeError(f"{task} is {content!r:.60}")
    entry = TaskEntry(**content)
    rate, returns = entry.success_rate, entry.return_quartiles
    sound = {
        "file": isinstance(entry.file, str) and _is_plain_name(entry.file),
        "env_id": isinstance(entry.env_id, str),
        "trajectories": type(entry.trajectories) is int and entry.trajectories > NUM_PROMPTS,
        "steps": type(entry.steps) is int and 0 < entry.steps < 2**63,
        "sha256": isinstance(entry.sha256, str),
        "return_quartiles": isinstance(returns, list)
        and len(returns) == len(_QUARTILES)
        and all(map(_is_number, returns)),
        "success_rate": rate is None or (_is_number(rate) and 0 <= rate <= 1),
        "made_by": isinstance(entry.made_by, dict),
        "random_return": entry.random_return is None or _is_number(entry.random_return),
    }
    wrong = [f"{n} of {task} is {getattr(entry, n)!r:.60}" for n in sound if not sound[n]]
    if wrong:
        raise ValueError("; ".join(wrong))
    return entry


def _checked_versions(content: Any) -> dict[str, str]:
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise TypeError(f"'versions' is {content!r:.60}")
    return content


def _is_plain_name(file: str) -> bool:
    """Return whether a file is named without its folder."""
    return file not in ("", ".", "..") and not set("/\\\0") & set(file)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def write_task(
    folder: Path,
    spec: TaskSpec,
    trajectories: Sequence[Trajectory],
    made_by: Provenance,
    random_return: float | None = None,
) -> TaskEntry:
    """Write a task's trajectories to one HDF5 file, atomically, and return its index entry.

    Datasets are contiguous and uncompressed, so that readers can map them into memory. Attributes
    hold mean and standard deviation of the states over the training trajectories.

    Raises:
        RunError: A value is not finite.
    """
    for number, trajectory in enumerate(trajectories):
        for name in ("observations", "actions", "rewards"):
            found = unsound(name, getattr(trajectory, name))
            if found:
                what, step = found
                raise RunError(f"{spec.name}: {what} in trajectory {number} at step {step}")
    arrays = _concatenate(trajectories)
    success_known = all(t.success is not None for t in trajectories)
    if not success_known:
        arrays["successes"][:] = 0
    ends = arrays["episode_ends"]
    training = arrays["observations"][: ends[-1 - NUM_PROMPTS]].astype(np.float64)
    path = folder / f"{file_stem(spec.name)}.hdf5"
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w") as file:
            for name, array in arrays.items():
                file[name] = array
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["task"] = spec.name
            file.attrs["env_id"] = spec.env_id
            file.attrs["state_mean"] = training.mean(axis=0)
            file.attrs["state_std"] = training.std(axis=0)
    return TaskEntry(
        file=path.name,
        env_id=spec.env_id,
        trajectories=len(trajectories),
        steps=int(ends[-1]),
        sha256=sha256(path),
        return_quartiles=quartiles(arrays["episode_returns"]),
        success_rate=success_rate(arrays["successes"]) if success_known else None,
        made_by=made_by,
        random_return=random_return,
    )


def quartiles(returns: np.ndarray) -> list[float]:
    """Return smallest, 25 %, median, 75 % and largest episode return."""
    return [round(float(value), 2) for value in np.quantile(returns, _QUARTILES)]


def success_rate(successes: np.ndarray) -> float:
    """Return the share of successful episodes."""
    return round(float(successes.mean()), 4)


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
