"""Datasets opened for reading: files mapped into memory, nothing loaded.

Letters: N transitions, M trajectories, S state, A action (both the task's native widths).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from m3dt.config.schema import ACTION_DIM, STATE_DIM, LoaderConfig
from m3dt.data.format import NUM_PROMPTS, DatasetIndex
from m3dt.tasks import TaskSpec, get_task
from m3dt.utils.errors import UserError
from m3dt.utils.files import sha256

_LAYOUT = {"observations": 2, "actions": 2, "rewards": 1}  # mapped: name, rank
_OFFICIAL_OFFSET = 1e-6  # what the authors add to a standard deviation
_SMALL = ("episode_ends", "episode_returns", "successes")  # read


@dataclass(frozen=True)
class TaskStore:
    """One task's trajectories.

    Attributes:
        spec: The task.
        path: The file.
        mapping: The file in memory.
        observations: (N, S) float32, mapped.
        actions: (N, A) float32, mapped.
        rewards: (N,) float32, mapped.
        episode_ends: (M,) int64, the transition behind each trajectory's last.
        episode_returns: (M,) float32.
        successes: (M,) uint8.
        state_mean, state_std: (S,) float64, over the training trajectories.
    """

    spec: TaskSpec
    path: Path
    mapping: mmap.mmap
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    episode_ends: np.ndarray
    episode_returns: np.ndarray
    successes: np.ndarray
    state_mean: np.ndarray
    state_std: np.ndarray

    def __repr__(self) -> str:
        return (
            f"TaskStore({self.spec.name}, observations={self.observations.shape}, "
            f"actions={self.actions.shape}, trajectories={len(self.episode_ends)})"
        )

    def release(self) -> None:
        """Give pages that were read back to the system, which keeps them cached while it can.

        The system maps far more than is read at every access: without this, a long run's resident
        memory would grow to the size of the dataset.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the file itself instead of receiving a copy of the data.
        return TaskStore.open, (self.path, self.spec)

    @property
    def episode_starts(self) -> np.ndarray:
        """First transition of each trajectory, (M,)."""
        return np.concatenate(([0], self.episode_ends[:-1]))

    @property
    def num_training_steps(self) -> int:
        """Transitions of all trajectories but the prompts."""
        return int(self.episode_ends[-1 - NUM_PROMPTS])

    @classmethod
    def open(cls, path: Path, spec: TaskSpec) -> TaskStore:
        """Map a task's file into memory.

        Raises:
            UserError: The file is missing, truncated, or not of the expected layout.
        """
        remedy = f"Delete it and run `m3dt collect` with data={path.parent} again."
        try:
            with h5py.File(path, "r") as file:
                placed = {name: _placement(file, name, rank) for name, rank in _LAYOUT.items()}
                small = {name: file[name][()] for name in _SMALL}
                mean, std = file.attrs["state_mean"][()], file.attrs["state_std"][()]
        except FileNotFoundError:
            raise UserError(
                f"{path}: the dataset lists this file, but it is missing. "
                f"Run `m3dt collect` with data={path.parent} again."
            ) from None
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(f"{path}: damaged or not a task file ({error}). {remedy}") from None
        size = path.stat().st_size
        for name, (offset, shape) in placed.items():
            if offset + 4 * int(np.prod(shape)) > size:
                raise UserError(f"{path}: truncated inside '{name}'. {remedy}")
        with path.open("rb") as opened:
            mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            mapping.madvise(mmap.MADV_RANDOM)  # reading ahead would be in vain
        mapped = {
            name: np.ndarray(shape, np.float32, buffer=mapping, offset=offset)
            for name, (offset, shape) in placed.items()
        }
        store = cls(spec, path, mapping, **mapped, **small, state_mean=mean, state_std=std)
        store._check(path)
        return store

    def _check(self, path: Path) -> None:
        steps = len(self.rewards)
        expected = {
            "observations": (steps, self.spec.state_dim),
            "actions": (steps, self.spec.action_dim),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise UserError(f"{path}: '{name}' is {found}, but {self.spec.name} has {shape}")
        lengths = np.diff(self.episode_ends, prepend=0)
        if len(lengths) <= NUM_PROMPTS or lengths.min() < 1 or self.episode_ends[-1] != steps:
            raise UserError(
                f"{path}: 'episode_ends' does not divide {steps} steps into trajectories, "
                f"at least {NUM_PROMPTS + 1} of one step or more"
            )


def _placement(file: h5py.File, name: str, rank: int) -> tuple[int, tuple[int, ...]]:
    dataset = file[name]
    offset = dataset.id.get_offset()
    if offset is None or dataset.dtype != np.float32 or dataset.ndim != rank:
        raise ValueError(f"'{name}' must be contiguous, uncompressed float32 of rank {rank}")
    return offset, dataset.shape


@dataclass(frozen=True)
class DatasetStore:
    """The tasks of a suite, in its order, and the checksum of their data."""

    folder: Path
    tasks: tuple[TaskStore, ...]
    checksum: str

    @classmethod
    def open(
        cls, folder: str | Path, names: Sequence[str], checksums: bool = False
    ) -> DatasetStore:
        """Open the named tasks of a dataset.

        Args:
            folder: The dataset's.
            names: Of the tasks, in the order wanted.
            checksums: Whether to read all of the files and compare their checksums.

        Raises:
            UserError: There is no dataset, tasks are missing, or a file is damaged.
        """
        folder = Path(folder)
        index = DatasetIndex.read(folder)
        missing = [name for name in names if name not in index.tasks]
        if missing:
            raise UserError(
                f"{folder}: the dataset lacks {len(missing)} of {len(names)} tasks: "
                f"{', '.join(missing)}. Add them with `m3dt collect`."
            )
        specs = [get_task(name) for name in names]
        tasks = [TaskStore.open(folder / index.tasks[s.name].file, s) for s in specs]
        if checksums:
            found = {task.path.name: sha256(task.path) for task in tasks}
            recorded = {index.tasks[name].file: index.tasks[name].sha256 for name in names}
            changed = [name for name in recorded if found[name] != recorded[name]]
            if changed:
                raise UserError(
                    f"{folder}: {', '.join(changed)}: not as the dataset's checksums say. Delete "
                    "what is damaged and run `m3dt collect` again, or import it again."
                )
        return cls(folder, tuple(tasks), index.checksum(names))


def pad_last(array: np.ndarray, width: int, value: float = 0.0) -> np.ndarray:
    """Pad the last axis at its end to `width`."""
    missing = width - array.shape[-1]
    if missing == 0:
        return array
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)], constant_values=value)


@dataclass(frozen=True)
class Normalization:
    """What states are normalised with: mean and std of one task, (39,) float32 each."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def padded(cls, mean: np.ndarray, std: np.ndarray) -> Normalization:
        """Pad statistics of native width; padded dims get 0 and 1."""
        mean, std = pad_last(mean, STATE_DIM), pad_last(std, STATE_DIM, 1.0)
        return cls(mean.astype(np.float32), std.astype(np.float32))


def normalizations(store: TaskStore, loader: LoaderConfig) -> tuple[Normalization, Normalization]:
    """Return how a task's training states and its prompts are normalised.

    The std is floored because many Meta-World dimensions are constant: divided by 1e-6, any
    difference in one of them would dwarf every other input (README, deviations 3 and 5).
    """
    mean, std = store.state_mean, store.state_std
    if loader.normalization == "floored":
        both = Normalization.padded(mean, np.maximum(std, loader.std_floor))
        return both, both
    prompts = store.observations[store.num_training_steps :].astype(np.float64)
    own = Normalization.padded(prompts.mean(axis=0), prompts.std(axis=0) + _OFFICIAL_OFFSET)
    return Normalization.padded(mean, std + _OFFICIAL_OFFSET), own


def action_mask(spec: TaskSpec) -> np.ndarray:
    """Return 1 for a task's real action dimensions and 0 for the padded ones, (8,) float32."""
    return (np.arange(ACTION_DIM) < spec.action_dim).astype(np.float32)
