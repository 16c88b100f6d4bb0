"""The HDF5 DataModule: batches that are a pure function of (seed, stage, step, rank)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from m3dt.config import LoaderConfig, ModelConfig
from m3dt.data.batch import Batch
from m3dt.data.draws import DrawPlan, Draws, ExpertStreams, TaskStream
from m3dt.data.mapped import MappedData
from m3dt.data.resident import BYTES_PER_STEP, ResidentData
from m3dt.data.store import DatasetStore
from m3dt.utils.errors import UserError

_LARGEST_CHUNK = 2**26  # bytes of batches that are gathered ahead from files


class Chunk(NamedTuple):
    """The batches of n optimiser steps that follow each other."""

    first: int  # number of the first step
    draws: Draws | None  # with a first axis of n, where the data is resident
    batches: list[Batch]  # otherwise n of them

    @property
    def num_steps(self) -> int:
        """Number of steps, n."""
        return len(self.batches) if self.draws is None else len(self.draws.task)

    def inputs(self, number: int) -> Draws | Batch:
        """Return the draws or the batch of one of the n steps."""
        return self.batches[number] if self.draws is None else self.draws.at(number)


class M3DTDataModule(pl.LightningDataModule):
    """Serves the batches of one stage, in chunks of one or more steps.

    Nothing needs saving to resume. The stage is 1, 2 or 3, or 0 for a baseline. The streams are one
    over all tasks, or one per expert.

    Attributes:
        plan: Draws the rows of each batch.
        chunk_steps: Returns the number of steps in the chunk that begins at a step.
    """

    def __init__(
        self,
        store: DatasetStore,
        loader: LoaderConfig,
        model: ModelConfig,
        seed: int,
        stage: int,
        streams: TaskStream | ExpertStreams,
    ) -> None:
        super().__init__()
        self.store = store
        self.loader = loader
        self.model = model
        self.plan = DrawPlan(store.tasks, loader, model.context_length, seed, stage, streams)
        self.chunk_steps: Callable[[int], int] = lambda step: 1
        self._mapped = MappedData(store.tasks, loader, model)
        self._resident: ResidentData | None = None

    @property
    def streams(self) -> tuple[TaskStream, ...]:
        """The streams whose batches are the equal parts of a batch."""
        return self.plan.streams

    def place(self, device: torch.device, model_bytes: int) -> str:
        """Copy the dataset to the training device, as `loader.resident` says.

        Args:
            device: Where the stage trains.
            model_bytes: Of the model's parameters; training takes several times as much.

        Returns:
            What was done, or an empty string where nothing had to be decided.

        Raises:
            UserError: The dataset does not fit on the device, but the configuration asks for it.
        """
        wanted, size = self.loader.resident, BYTES_PER_STEP * self._num_steps()
        if wanted == "off" or (wanted == "auto" and device.type != "cuda"):
            return ""
        shown = f"{self._num_steps() / 1e6:.2f} million transitions, {size / 2**30:.2f} GiB"
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if size + 8 * model_bytes > 0.8 * free:
                problem = f"{shown}, leave too little of {free / 2**30:.1f} GiB for training"
                if wanted == "on":
                    raise UserError(f"loader.resident=on: {problem}. Set loader.resident=off.")
                return f"data: {problem}; batches are read from files"
        self._resident = ResidentData(self._mapped, device)
        return f"data: {shown} on {device}"

    def draws(self, step: int, rank: int = 0, world_size: int = 1) -> Draws:
        """Return the rows of a rank's share of the batch of a step."""
        return self.plan.at(step, rank, world_size)

    def gather(self, draws: Draws) -> Batch:
        """Return a batch from its draws: on the device if the data is resident, else on the CPU."""
        return (
            self._mapped.gather(draws) if self._resident is None else self._resident.gather(draws)
        )

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Return a rank's share of the batch of a step, read from files."""
        return self._mapped.gather(self.draws(step, rank, world_size))

    def probe_batch(self, task: int, index: int = 0, batch_size: int | None = None) -> Batch:
        """Return a fixed batch of one task, a function of (seed, task, index), to measure on."""
        return self.probe_batches([task], index, batch_size)

    def probe_batches(
        self, tasks: Sequence[int], index: int = 0, batch_size: int | None = None
    ) -> Batch:
        """Return the probe batches of several tasks in one, in their order."""
        return self.gather(self.to_device(self.probe_draws(tasks, index, batch_size)))

    def probe_draws(
        self, tasks: Sequence[int], index: int = 0, batch_size: int | None = None
    ) -> Draws:
        """Return the rows of the probe batches of several tasks."""
        return Draws.join([self.plan.probe(task, index, batch_size) for task in tasks])

    def to_device(self, draws: Draws) -> Draws:
        """Copy draws to where `gather` reads them."""
        if self._resident is None:
            return draws
        return Draws(*(tensor.to(self._resident.first.device) for tensor in draws))

    @property
    def largest_chunk(self) -> int:
        """Most steps of a chunk: batches that are gathered ahead take memory, draws hardly any."""
        if self._resident is not None:
            return 1000
        rows = self.loader.batch_size * len(self.streams)
        steps = self.model.context_length + self.model.prompt_length
        return max(1, _LARGEST_CHUNK // (BYTES_PER_STEP * rows * steps))

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        if self.loader.batch_size % trainer.world_size:
            raise UserError(
                f"batch_size={self.loader.batch_size} of the stage, or else of loader, counts the "
                f"segments of all processes; make it a multiple of {trainer.world_size}"
            )
        on_gpu = trainer.strategy.root_device.type == "cuda"
        mapped = self._mapped if self._resident is None else None
        return DataLoader(
            _Chunks(self.plan, mapped, trainer.global_rank, trainer.world_size),
            batch_size=None,
            sampler=_ChunkSampler(trainer, lambda step: self.chunk_steps(step)),
            # A GPU should not wait for the process that drives it to prepare batches.
            num_workers=self.loader.num_workers or int(on_gpu),
            worker_init_fn=_leave_signals_to_the_parent,
            pin_memory=on_gpu,
        )

    def _num_steps(self) -> int:
        return sum(len(task.rewards) for task in self.store.tasks)


def _leave_signals_to_the_parent(worker: int) -> None:
    """Go on where a signal reaches all of a job: the parent ends the step, then its workers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))


class _ChunkSampler(Sampler[tuple[int, int]]):
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


class _Chunks(Dataset[Chunk]):
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
        if self.mapped is None:
            return Chunk(first, Draws.stack(draws), [])
        return Chunk(first, None, [self.mapped.gather(d) for d in draws])
