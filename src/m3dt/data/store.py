"""Datasets opened for reading: memory-mapped, so that opening one takes no RAM."""

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

_MAPPED_RANKS = {"observations": 2, "actions": 2, "rewards": 1}
_OFFICIAL_OFFSET = 1e-6  # the authors add it to every standard deviation
_READ = ("episode_ends", "episode_returns", "successes")


@dataclass(frozen=True)
class TaskStore:
    """One task's trajectories, concatenated along the first axis.

    States and actions have the task's own widths, S = `state_dim` and A = `action_dim`.
    """

    spec: TaskSpec
    path: Path  # of its HDF5 file
    mapping: mmap.mmap  # the file; the next three arrays lie in it
    observations: np.ndarray  # (transitions, S) float32
    actions: np.ndarray  # (transitions, A) float32
    rewards: np.ndarray  # (transitions,) float32
    episode_ends: np.ndarray  # (trajectories,) int64, index after the last transition of each
    episode_returns: np.ndarray  # (trajectories,) float32
    successes: np.ndarray  # (trajectories,) uint8
    state_mean: np.ndarray  # (S,) float64, over the training trajectories
    state_std: np.ndarray  # (S,) float64

    def __repr__(self) -> str:
        return (
            f"TaskStore({self.spec.name}, observations={self.observations.shape}, "
            f"actions={self.actions.shape}, trajectories={len(self.episode_ends)})"
        )

    def release(self) -> None:
        """Unmap the pages that were read; the system keeps them in its cache while it can.

        Each access maps far more than it reads: without this, the resident memory of a long run
        would grow to the size of the dataset.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes map the file themselves instead of receiving a copy of the data.
        return TaskStore.open, (self.path, self.spec)

    @property
    def episode_starts(self) -> np.ndarray:
        """Index of each trajectory's first transition, (trajectories,)."""
        return np.concatenate(([0], self.episode_ends[:-1]))

    @property
    def num_training_steps(self) -> int:
        """Number of transitions in the training trajectories, which precede the prompts."""
        return int(self.episode_ends[-1 - NUM_PROMPTS])

    @classmethod
    def open(cls, path: Path, spec: TaskSpec) -> TaskStore:
        """Map a task's file into memory.

        Raises:
            UserError: The file is missing, truncated, or has another layout or other widths.
        """
        remedy = f"Delete it and run `m3dt collect` with data={path.parent} again."
        try:
            with h5py.File(path, "r") as file:
                placed = {name: _placement(file, name, r) for name, r in _MAPPED_RANKS.items()}
                small = {name: file[name][()] for name in _READ}
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
            mapping.madvise(mmap.MADV_RANDOM)  # reading ahead would be useless
        mapped = {
            name: np.ndarray(shape, np.float32, buffer=mapping, offset=offset)
            for name, (offset, shape) in placed.items()
        }
        store = cls(spec, path, mapping, **mapped, **small, state_mean=mean, state_std=std)
        store._check(path)
        return store

    def _check(self, path: Path) -> None:
        """Compare the widths with the task's, and the trajectories with the transitions."""
        steps = len(self.rewards)
        widths = {"observations": self.spec.state_dim, "actions": self.spec.action_dim}
        for name, width in widths.items():
            found, shape = getattr(self, name).shape, (steps, width)
            if found != shape:
                raise UserError(f"{path}: '{name}' is {found}, but {self.spec.name} has {shape}")
        lengths = np.diff(self.episode_ends, prepend=0)
        if len(lengths) <= NUM_PROMPTS or lengths.min() < 1 or self.episode_ends[-1] != steps:
            raise UserError(
                f"{path}: 'episode_ends' does not divide {steps} steps into trajectories, "
                f"at least {NUM_PROMPTS + 1} of one step or more"
            )


def _placement(file: h5py.File, name: str, rank: int) -> tuple[int, tuple[int, ...]]:
    """Return a dataset's offset in the file, in bytes, and its shape."""
    dataset = file[name]
    offset = dataset.id.get_offset()
    if offset is None or dataset.dtype != np.float32 or dataset.ndim != rank:
        raise ValueError(f"'{name}' must be contiguous, uncompressed float32 of rank {rank}")
    return offset, dataset.shape


@dataclass(frozen=True)
class DatasetStore:
    """The tasks of a suite in order, and the checksum of their data."""

    folder: Path
    tasks: tuple[TaskStore, ...]
    checksum: str

    @classmethod
    def open(
        cls, folder: str | Path, names: Sequence[str], checksums: bool = False
    ) -> DatasetStore:
        """Open the named tasks of a dataset.

        They are in the order of their names. On demand, all files are read and their checksums
        compared.

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
            entries = [index.tasks[name] for name in names]
            changed = [e.file for e in entries if sha256(folder / e.file) != e.sha256]
            if changed:
                raise UserError(
                    f"{folder}: {', '.join(changed)}: not as the dataset's checksums say. Delete "
                    "the damaged files and run `m3dt collect` again, or import them again."
                )
        return cls(folder, tuple(tasks), index.checksum(names))


@dataclass(frozen=True)
class Normalization:
    """Mean and std that normalise one task's states, (39,) float32 each."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def padded(cls, mean: np.ndarray, std: np.ndarray) -> Normalization:
        """Pad statistics of the task's own width, the mean with 0 and the std with 1."""
        padding = (0, STATE_DIM - len(mean))
        mean, std = np.pad(mean, padding), np.pad(std, padding, constant_values=1.0)
        return cls(mean.astype(np.float32), std.astype(np.float32))


def normalizations(store: TaskStore, loader: LoaderConfig) -> tuple[Normalization, Normalization]:
    """Return the normalisations of a task's training states and of its prompts.

    By default, the std has a lower bound, because many Meta-World dimensions are constant: divided
    by 1e-6, any difference in one of them would dwarf all other inputs (README, deviations 3, 5).
    """
    mean, std = store.state_mean, store.state_std
    if loader.normalization == "floored":
        both = Normalization.padded(mean, np.maximum(std, loader.std_floor))
        return both, both
    prompts = store.observations[store.num_training_steps :].astype(np.float64)
    of_prompts = Normalization.padded(prompts.mean(axis=0), prompts.std(axis=0) + _OFFICIAL_OFFSET)
    return Normalization.padded(mean, std + _OFFICIAL_OFFSET), of_prompts


def action_mask(spec: TaskSpec) -> np.ndarray:
    """Return 1 for the task's own action dimensions and 0 for padding, (8,) float32."""
    return (np.arange(ACTION_DIM) < spec.action_dim).astype(np.float32)
