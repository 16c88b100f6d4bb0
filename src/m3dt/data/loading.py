"""What data loaders yield: chunks of training batches, and rounds of validation.

Letters: E streams.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset, Sampler

from m3dt.data.batch import Batch
from m3dt.data.draws import DrawPlan, Draws
from m3dt.data.mapped import MappedData
from m3dt.utils.errors import UserError
from m3dt.utils.processes import signals_held


class Chunk(NamedTuple):
    """The batches of n optimiser steps that follow each other."""

    first: int  # number of the first step
    draws: Draws | None  # with a first axis of n, where the data is resident
    batches: list[Batch]  # otherwise n of them

    @property
    def num_steps(self) -> int:
        """Number of steps, n."""
        return len(self.batches) if self.draws is None else len(self.draws.task)

    def until(self, step: int | None) -> Chunk:
        """Return the chunk without the steps from a number on, but with at least one."""
        if step is None or step >= self.first + self.num_steps:
            return self
        kept = max(1, step - self.first)
        draws = None if self.draws is None else self.draws.first(kept)
        return Chunk(self.first, draws, self.batches[:kept])

    def inputs(self, number: int) -> Draws | Batch:
        """Return the draws or the batch of one of the n steps."""
        return self.batches[number] if self.draws is None else self.draws.at(number)


class ValidationRound(NamedTuple):
    """A held-out batch of one task per stream."""

    chunk: Chunk  # of one batch
    counted: Tensor  # (E,) of bool; False where a stream has no task of the round's number


class ShieldedLoader(DataLoader[Any]):
    """A data loader whose workers go on where a signal reaches all of a job.

    The parent ends its step, then its workers. They inherit the signals that are held while they
    start, so SIGTERM does not end them either: see `no_children_left`.

    Raises:
        UserError: The system lets processes share no memory.
    """

    def __iter__(self) -> Any:
        try:
            _ = [multiprocessing.Queue() for _ in range(self.num_workers + 1)]
        except OSError as error:
            raise UserError(
                f"loader.num_workers={self.num_workers}: processes cannot share memory in /dev/shm "
                f"({error.strerror}). Give it space, or set loader.num_workers=0."
            ) from None
        with signals_held():
            return super().__iter__()


def pass_errors_on(worker: int) -> None:
    """Have the training process raise what a worker's queue cannot send, such as a full /dev/shm.

    `multiprocessing` prints it and drops the batch, for which the training would wait for ever.
    """

    def send_error(queue: Any, error: Exception, item: Any) -> None:
        number, _ = item
        queue.put((number, ExceptionWrapper(where=f"in DataLoader worker process {worker}")))

    Queue._on_queue_feeder_error = send_error  # type: ignore[attr-defined]


class ChunkSampler(Sampler[tuple[int, int]]):
    """Yields the first step and the length of each chunk from the trainer's current step on."""

    def __init__(self, trainer: pl.Trainer, chunk_steps: Callable[[int], int]) -> None:
        self.trainer = trainer
        self.chunk_steps = chunk_steps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step = self.trainer.global_step
        while True:
            number = self.chunk_steps(step)
            yield step, number
            step += number


def _gather(draws: list[Draws], first: int, mapped: MappedData | None) -> Chunk:
    """Return draws as they are where the device gathers, and batches otherwise."""
    if mapped is None:
        return Chunk(first, Draws.stack(draws), [])
    return Chunk(first, None, mapped.gather_all(draws))


class Chunks(Dataset[Chunk]):
    """Maps the first step and the length of a chunk to a rank's draws, or to its batches."""

    def __init__(
        self, plan: DrawPlan, mapped: MappedData | None, rank: int, world_size: int
    ) -> None:
        self.plan = plan
        self.mapped = mapped  # None where the device gathers
        self.rank = rank
        self.world_size = world_size

    def __getitem__(self, steps: tuple[int, int]) -> Chunk:
        first, number = steps
        ahead = range(first, first + number)
        draws = [self.plan.at(step, self.rank, self.world_size) for step in ahead]
        return _gather(draws, first, self.mapped)


class ValidationRounds(Dataset[ValidationRound]):
    """Maps the number of a round to the held-out batch of each stream's task of that number."""

    def __init__(self, plan: DrawPlan, mapped: MappedData | None) -> None:
        self.plan = plan
        self.mapped = mapped

    def __getitem__(self, number: int) -> ValidationRound:
        groups = [stream.tasks for stream in self.plan.streams]
        draws = [self.plan.validation(group[min(number, len(group) - 1)]) for group in groups]
        counted = torch.tensor([number < len(group) for group in groups])
        return ValidationRound(_gather([Draws.join(draws)], 0, self.mapped), counted)
