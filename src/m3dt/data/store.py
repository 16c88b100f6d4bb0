"""Datasets opened for reading: memory-mapped, so that opening one takes no RAM."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from m3dt.data.format import NUM_PROMPTS, DatasetIndex
from m3dt.data.hdf5 import open_hdf5
from m3dt.data.remedies import collecting, collecting_like, made_again
from m3dt.data.soundness import index_problems, opening_problems
from m3dt.data.values import unusual_returns
from m3dt.tasks import TaskSpec, get_task
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError
from m3dt.utils.files import sha256
from m3dt.utils.paths import user_path

# Rank and type of each dataset of a task's file. Those in MAPPED stay in the file.
_LAYOUT = {
    "observations": (2, np.float32),
    "actions": (2, np.float32),
    "rewards": (1, np.float32),
    "episode_ends": (1, np.int64),
    "episode_returns": (1, np.float32),
    "successes": (1, np.uint8),
}
_MAPPED = ("observations", "actions", "rewards")
_STATISTICS = ("state_mean", "state_std")


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
    random_return: float = math.nan  # where the score follows from the data

    def __repr__(self) -> str:
        return (
            f"TaskStore({self.spec.name}, observations={self.observations.shape}, "
            f"actions={self.actions.shape}, trajectories={len(self.episode_ends)})"
        )

    def completed(self, random_return: float | None) -> TaskStore:
        """Return the store with what its specification leaves to the data.

        Raises:
            UserError: The data do not say it.
        """
        random = math.nan if random_return is None else random_return
        spec = self.spec.completed(random, float(self.episode_returns.max()))
        return replace(self, spec=spec, random_return=random)

    def release(self) -> None:
        """Unmap the pages that were read; the system keeps them in its cache while it can.

        Each access maps far more than it reads: without this, the resident memory of a long run
        would grow to the size of the dataset.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes map the file themselves instead of receiving a copy of the data. A score
        # may be a function that cannot be sent, and they need none.
        return TaskStore.open, (self.path, replace(self.spec, score=None))

    @property
    def episode_starts(self) -> np.ndarray:
        """Index of each trajectory's first transition, (trajectories,)."""
        return np.concatenate(([0], self.episode_ends[:-1]))

    @property
    def num_training_steps(self) -> int:
        """Number of transitions in the training trajectories, which precede the prompts."""
        return int(self.episode_ends[-1 - NUM_PROMPTS])

    def locate(self, transition: int) -> tuple[int, int]:
        """Return the trajectory of a transition, and its step within it."""
        trajectory = int(np.searchsorted(self.episode_ends, transition, side="right"))
        return trajectory, transition - int(self.episode_starts[trajectory])

    @classmethod
    def open(cls, path: Path, spec: TaskSpec, again: str = "make it again") -> TaskStore:
        """Map a task's file into memory, after checking all that costs no time.

        These are its layout, the trajectories, the statistics, the returns and the prompts.
        `verify` checks the rest. `again` says how a lost file is made again; see `made_again`.

        Raises:
            UserError: The file is missing, damaged, of another task or layout, or holds values that
                cannot be right.
        """
        remedy = f"Delete it and {again}."
        try:
            with open_hdf5(path, remedy, path.parent) as file:
                datasets = {name: _dataset(file, name) for name in _LAYOUT}
                placed = {name: _placement(datasets[name]) for name in _MAPPED}
                small = {name: datasets[name][()] for name in _LAYOUT if name not in _MAPPED}
                attributes = dict(file.attrs)
        except FileNotFoundError:
            raise UserError(
                f"{path}: the dataset lists this file, but it is missing. To restore it, {again}."
            ) from None
        with path.open("rb") as opened:
            mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            mapping.madvise(mmap.MADV_RANDOM)  # reading ahead would be useless
        mapped = {
            name: np.ndarray(shape, np.float32, buffer=mapping, offset=offset)
            for name, (offset, shape) in placed.items()
        }
        statistics = {name: np.asarray(attributes.get(name)) for name in _STATISTICS}
        arrays: dict[str, Any] = {**mapped, **small, **statistics}
        store = cls(spec, path, mapping, **arrays)
        problem = next(opening_problems(store, attributes), None)
        if problem:
            raise UserError(f"{path}: {problem}. {remedy}")
        return store


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset of a task's file whose bytes lie together in the file, as its type says."""
    rank, dtype = _LAYOUT[name]
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype != dtype or dataset.ndim != rank:
        raise ValueError(f"'{name}' must be {np.dtype(dtype)} of rank {rank}")
    offset = dataset.id.get_offset()
    if dataset.size and (dataset.chunks or offset is None):
        raise ValueError(f"'{name}' must be contiguous and uncompressed")
    if dataset.size and offset + dataset.nbytes > file.id.get_filesize():
        raise ValueError(f"truncated inside '{name}'")
    return dataset


def _placement(dataset: h5py.Dataset) -> tuple[int, tuple[int, ...]]:
    """Return a dataset's offset in the file, in bytes, and its shape."""
    return dataset.id.get_offset() or 0, dataset.shape


@dataclass(frozen=True)
class DatasetStore:
    """The tasks of a suite in order, and the checksum of their data."""

    folder: Path
    tasks: tuple[TaskStore, ...]
    checksum: str

    @classmethod
    def open(
        cls,
        folder: str | Path,
        names: Sequence[str],
        checksums: bool = False,
        collected_by: str = "",
    ) -> DatasetStore:
        """Open the named tasks of a dataset.

        They are in the order of their names. Each file is compared with the index as far as that
        takes no time; on demand, all files are read and their checksums compared. `collected_by`
        is the command that collects what is missing, by default one that names these tasks.

        Raises:
            UserError: There is no dataset, tasks are missing, or a file is damaged.
        """
        folder = user_path(folder)
        index = DatasetIndex.read(folder, collected_by or collecting(folder, names))
        missing = [name for name in names if name not in index.tasks]
        if missing:
            by = collected_by or collecting(folder, missing)
            command, meaning = collecting_like(index, by)
            where = f", where {meaning}" if meaning else ""
            raise UserError(
                f"{folder}: the dataset lacks {len(missing)} of {counted(len(names), 'task')}: "
                f"{', '.join(missing)}. To collect these alone, run `{command}`{where}. If jobs "
                "collect it in shards, wait for them, or repeat those that did not end."
            )
        entries = [index.tasks[name] for name in names]
        tasks = []
        for name, entry in zip(names, entries, strict=True):
            again = made_again(folder, name, entry)
            task = TaskStore.open(folder / entry.file, get_task(name), again)
            problem = next(index_problems(task, entry), None)
            if problem:
                raise UserError(f"{task.path}: {problem}. Delete it and {again}.")
            tasks.append(task.completed(entry.random_return))
        if checksums:
            changed = [
                f"{entry.file}: not as the dataset's checksums say. Delete it and "
                f"{made_again(folder, name, entry)}."
                for name, entry in zip(names, entries, strict=True)
                if sha256(folder / entry.file) != entry.sha256
            ]
            if changed:
                raise UserError(f"{folder}: {' '.join(changed)}")
        return cls(folder, tuple(tasks), index.checksum(names))

    def notes(self) -> list[str]:
        """Return findings about the returns that a user should know, one sentence each."""
        found = (unusual_returns(task.spec, task.episode_returns) for task in self.tasks)
        return [note for note in found if note]


def action_mask(spec: TaskSpec, width: int) -> np.ndarray:
    """Return 1 for the task's own action dimensions and 0 for padding, (width,) float32."""
    return (np.arange(width) < spec.action_dim).astype(np.float32)
