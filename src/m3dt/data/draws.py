"""Which rows make a batch: a pure function of (seed, stage, stream, step).

Draws are a few numbers per row. The rows themselves are gathered from files (`mapped.py`) or from
tensors on the training device (`resident.py`), with the same result.

Letters: B batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m3dt.config import LoaderConfig
from m3dt.data.batch import ExpertParts
from m3dt.data.format import NUM_PROMPTS
from m3dt.data.store import TaskStore
from m3dt.utils.errors import UserError

_PROBE = 1_000_000  # keeps the random streams of probe batches apart from those of stages
_VALIDATION = 2_000_000  # and those of validation batches


class Draws(NamedTuple):
    """The rows of one batch, or of n batches with a further first axis of n."""

    task: Tensor  # (B,) of int64, position in the suite
    begin: Tensor  # (B,) of int64, first transition, counted over the task's file
    prompt_rows: Tensor  # (B,) of int64, which of the batch's prompts each row has
    prompts: Tensor  # (num_prompts, 2) of int64: task, and number of the prompt within the task
    loss_weight: Tensor  # (B,) of float32

    def at(self, number: int) -> Draws:
        """Return one of n batches."""
        return Draws(*(tensor[number] for tensor in self))

    def first(self, number: int) -> Draws:
        """Return the first of n batches."""
        return Draws(*(tensor[:number] for tensor in self))

    @classmethod
    def stack(cls, draws: Sequence[Draws]) -> Draws:
        """Return several batches of the same sizes with a further first axis."""
        return cls(*(torch.stack(tensors) for tensors in zip(*draws, strict=True)))

    @classmethod
    def join(cls, draws: Sequence[Draws]) -> Draws:
        """Return the rows of several batches as one batch, in their order."""
        if len(draws) == 1:
            return draws[0]
        firsts = itertools.accumulate((len(d.prompts) for d in draws), initial=0)
        rows = [d.prompt_rows + first for d, first in zip(draws, firsts, strict=False)]
        task, begin, _, prompts, weight = (torch.cat(parts) for parts in zip(*draws, strict=True))
        return cls(task, begin, torch.cat(rows), prompts, weight)

    def with_own_prompts(self) -> Draws:
        """Repeat prompts, so that each row has its own."""
        own = torch.arange(len(self.task))
        return self._replace(prompts=self.prompts[self.prompt_rows], prompt_rows=own)


@dataclass(frozen=True)
class TaskStream:
    """A sequence of batches over some tasks: all of them, or those of one expert."""

    key: int  # part of the random seed, such as the number of the expert
    tasks: tuple[int, ...]  # positions in the suite


@dataclass(frozen=True)
class ExpertStreams:
    """The streams of stage 2, one per expert: their batches are the equal parts of one batch."""

    streams: tuple[TaskStream, ...]


class Trajectories:
    """Some trajectories of one task, from whose transitions segments are drawn.

    Args:
        store: The task.
        chosen: Their numbers, ascending.
    """

    def __init__(self, store: TaskStore, chosen: np.ndarray) -> None:
        lengths = np.diff(store.episode_ends, prepend=0)[chosen]
        self.starts, self.ends = store.episode_starts[chosen], store.episode_ends[chosen]
        self._before = np.cumsum(lengths) - lengths  # transitions of earlier chosen trajectories
        self.num_steps = int(lengths.sum())

    def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw uniformly over transitions: long trajectories weigh more.

        Returns:
            First transitions of segments, counted over the task's file, and the number of
            transitions from each to the end of its trajectory, (size,) each.
        """
        drawn = rng.integers(0, self.num_steps, size=size)
        number = np.searchsorted(self._before, drawn, side="right") - 1
        begin = self.starts[number] + drawn - self._before[number]
        return begin, self.ends[number] - begin

    def draw_ends(
        self, rng: np.random.Generator, size: int, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw trajectories uniformly, to be cut as prompts of `length` steps are; see `draw`."""
        number = rng.integers(0, len(self.ends), size=size)
        begin = np.maximum(self.ends[number] - 1 - length, self.starts[number])
        return begin, self.ends[number] - begin


def divided(num_rows: int, num_tasks: int) -> list[int]:
    """Return how many rows of a batch each of its tasks has; they differ by at most one."""
    return [num_rows // num_tasks + (i < num_rows % num_tasks) for i in range(num_tasks)]


def own_rows(offset: int, rank: int, world_size: int) -> slice:
    """Return which of a task's rows are a rank's: every world_size-th of the whole batch.

    Args:
        offset: Number of rows of earlier tasks, over all ranks.
        rank: The rank.
        world_size: Number of ranks.
    """
    return slice((rank - offset) % world_size, None, world_size)


def rows_by_task(num_rows: int, num_tasks: int, rank: int = 0, world_size: int = 1) -> list[int]:
    """Return how many rows of a rank's share of a batch each of the batch's tasks has.

    Args:
        num_rows: Rows of the rank.
        num_tasks: Tasks of the whole batch.
        rank: The rank.
        world_size: Number of ranks.
    """
    sizes = divided(num_rows * world_size, num_tasks)
    offsets = itertools.accumulate(sizes[:-1], initial=0)
    return [
        len(range(size)[own_rows(offset, rank, world_size)])
        for size, offset in zip(sizes, offsets, strict=True)
    ]


def split_trajectories(
    store: TaskStore, held_out: int, best_share: float = 1.0
) -> tuple[Trajectories, Trajectories]:
    """Return the trajectories of a task to train on, and those held out for validation.

    The held-out ones are spread evenly over the training trajectories ordered by return.

    Args:
        store: The task.
        held_out: How many are held out.
        best_share: Fraction of the others to train on, those with the highest returns.

    Raises:
        UserError: None would be left to train on.
    """
    order = np.argsort(store.episode_returns[:-NUM_PROMPTS], kind="stable")
    if held_out >= len(order):
        raise UserError(
            f"loader.validation_trajectories={held_out}: {store.spec.name} has {len(order)} "
            "trajectories besides its prompts; at least one must be left to train on"
        )
    places = ((np.arange(held_out) + 0.5) * len(order) / max(held_out, 1)).astype(int)
    others = np.delete(order, places)
    best = others[-max(1, round(best_share * len(others))) :]
    return Trajectories(store, np.sort(best)), Trajectories(store, np.sort(order[places]))


class DrawPlan:
    """Draws the rows of every batch of one stage, and of probe and validation batches.

    Rows are segments of `length` timesteps that begin at any transition, or, with `ends`, the last
    `length` steps before the final one of trajectories, as prompts are cut.

    Batch s is drawn from a generator seeded by (seed, stage, stream, s). Each rank takes its share
    of the rows, so the world size changes no batch.
    """

    def __init__(
        self,
        tasks: Sequence[TaskStore],
        loader: LoaderConfig,
        length: int,
        seed: int,
        stage: int,
        streams: TaskStream | ExpertStreams,
        ends: bool = False,
    ) -> None:
        self.loader = loader
        self.length = length  # timesteps of a segment
        self.ends = ends
        self.seed = seed
        self.stage = stage
        self.streams = streams.streams if isinstance(streams, ExpertStreams) else (streams,)
        # Experts share a batch in equal parts, but their groups differ in their number of tasks.
        self._own_prompts = isinstance(streams, ExpertStreams) and loader.sampling == "mixed"
        self._action_dims = [task.spec.action_dim for task in tasks]
        held_out, best = loader.validation_trajectories, loader.best_share
        split = [split_trajectories(task, held_out, best) for task in tasks]
        self._training = [training for training, _ in split]
        self._held_out = [held_out for _, held_out in split]

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> Draws:
        """Return a rank's share of the batch of a step."""
        parts = []
        for stream in self.streams:
            rng = np.random.default_rng((self.seed, self.stage, stream.key, step))
            sizes = self._sizes(stream, step)
            part = self._draw(rng, self._training, sizes, rank, world_size)
            parts.append(part.with_own_prompts() if self._own_prompts else part)
        ExpertParts(len(parts)).check([len(part.task) for part in parts])
        return Draws.join(parts)

    def probe(self, task: int, index: int = 0, batch_size: int | None = None) -> Draws:
        """Return a fixed batch of one task, seeded by (seed, task, index), for measurements."""
        rng = np.random.default_rng((self.seed, _PROBE, task, index))
        return self._draw(rng, self._training, {task: batch_size or self.loader.batch_size})

    def validation(self, task: int) -> Draws:
        """Return a fixed batch of one task's held-out trajectories, seeded by (seed, task)."""
        rng = np.random.default_rng((self.seed, _VALIDATION, task))
        return self._draw(rng, self._held_out, {task: self.loader.batch_size})

    def _sizes(self, stream: TaskStream, step: int) -> dict[int, int]:
        """Return the tasks of a step, each with its number of rows."""
        n, B = len(stream.tasks), self.loader.batch_size
        if self.loader.sampling == "one_task":
            return {stream.tasks[step % n]: B}
        share = min(n, B, self.loader.tasks_per_batch or B)
        chosen = [stream.tasks[(step * share + i) % n] for i in range(share)]
        return dict(zip(chosen, divided(B, share), strict=True))

    def _draw(
        self,
        rng: np.random.Generator,
        trajectories: Sequence[Trajectories],
        sizes: Mapping[int, int],
        rank: int = 0,
        world_size: int = 1,
    ) -> Draws:
        """Draw rows of the global batch, `sizes` of each task, and keep every world_size-th."""
        columns: list[tuple[np.ndarray, ...]] = []
        offset = 0
        for number, (task, size) in enumerate(sizes.items()):
            if self.ends:
                begin, left = trajectories[task].draw_ends(rng, size, self.length)
            else:
                begin, left = trajectories[task].draw(rng, size)
            which = rng.integers(0, NUM_PROMPTS, size=size)
            # A mean over the task's real entries in the global batch, then over the tasks. Ranks
            # average their gradients, hence the factor world_size.
            entries = int(np.minimum(left, self.length).sum()) * self._action_dims[task]
            weight = np.float32(world_size) / np.float32(entries * len(sizes))
            mine = own_rows(offset, rank, world_size)
            offset += size
            begin, which = begin[mine], which[mine]
            tasks, weights = np.full(len(begin), task), np.full(len(begin), weight, np.float32)
            columns.append((tasks, begin, which + number * NUM_PROMPTS, weights))
        task_of, begin, rows, weight_of = (np.concatenate(c) for c in zip(*columns, strict=True))
        prompts = [(task, which) for task in sizes for which in range(NUM_PROMPTS)]
        arrays = (task_of, begin, rows, np.array(prompts), weight_of)
        return Draws(*(torch.from_numpy(array) for array in arrays))
