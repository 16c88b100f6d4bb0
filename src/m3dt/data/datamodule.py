"""The HDF5 DataModule: batches that are a pure function of (seed, stage, step, rank)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from m3dt.config import LoaderConfig, ModelConfig
from m3dt.data.batch import Batch
from m3dt.data.draws import DrawPlan, Draws, ExpertStreams, TaskStream
from m3dt.data.loading import (
    Chunks,
    ChunkSampler,
    ShieldedLoader,
    ValidationRounds,
    pass_errors_on,
)
from m3dt.data.mapped import MappedData
from m3dt.data.resident import ResidentData, bytes_per_step
from m3dt.data.store import DatasetStore
from m3dt.utils.errors import UserError

_LARGEST_CHUNK = 2**26  # bytes of batches that are gathered ahead from files


class M3DTDataModule(pl.LightningDataModule):
    """Serves the batches of one stage, in chunks of one or more steps.

    Nothing needs saving to resume. The stage is 1, 2 or 3, 4 for the router by prompts, or 0 for a
    baseline. The streams are one over all tasks, or one per expert. With `ends`, segments are cut
    as prompts are, and have their length.

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
        ends: bool = False,
    ) -> None:
        super().__init__()
        if ends:
            model = replace(model, context_length=model.prompt_length)
        self.store = store
        self.loader = loader
        self.model = model
        self.plan = DrawPlan(store.tasks, loader, model.context_length, seed, stage, streams, ends)
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
        wanted, size = self.loader.resident, bytes_per_step(self.model) * self._num_steps()
        if wanted == "off" or (wanted == "auto" and device.type != "cuda"):
            return ""
        shown = f"{self._num_steps() / 1e6:.2f} million transitions, {size / 2**30:.2f} GiB"
        if device.type == "cuda":
            gc.collect()  # what an earlier stage held
            torch.cuda.empty_cache()
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
    def resident_bytes(self) -> int:
        """Memory that the dataset takes on the training device."""
        return 0 if self._resident is None else bytes_per_step(self.model) * self._num_steps()

    def largest_chunk(self, ahead: bool) -> int:
        """Return the most steps of a chunk, so that what is prepared ahead takes little memory.

        `ahead` says whether batches are to be counted, whatever is prepared: draws take hardly any.
        """
        if self._resident is not None and not ahead:
            return 1000
        rows = self.loader.batch_size * len(self.streams)
        steps = self.model.context_length + self.model.prompt_length
        return max(1, _LARGEST_CHUNK // (bytes_per_step(self.model) * rows * steps))

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
        return ShieldedLoader(
            Chunks(self.plan, mapped, trainer.global_rank, trainer.world_size),
            batch_size=None,
            sampler=ChunkSampler(trainer, lambda step: self.chunk_steps(step)),
            # A GPU should not wait for the process that drives it to prepare batches.
            num_workers=self.loader.num_workers or int(on_gpu),
            worker_init_fn=pass_errors_on,
            pin_memory=on_gpu,
        )

    @property
    def validates(self) -> bool:
        """Whether trajectories are held out for validation."""
        return self.loader.validation_trajectories > 0

    def val_dataloader(self) -> list[DataLoader]:
        """Return the held-out batches of all tasks, in rounds that the ranks share."""
        trainer = self.trainer
        assert trainer is not None
        if not self.validates:
            return []
        mapped = self._mapped if self._resident is None else None
        rounds = range(max(len(stream.tasks) for stream in self.streams))
        each = -(-len(rounds) // trainer.world_size)  # a rank without data would end the others
        mine = [trainer.global_rank + i * trainer.world_size for i in range(each)]
        return [DataLoader(ValidationRounds(self.plan, mapped), batch_size=None, sampler=mine)]

    def _num_steps(self) -> int:
        return sum(len(task.rewards) for task in self.store.tasks)
