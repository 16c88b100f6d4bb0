"""The HDF5 DataModule: batches that are a pure function of (seed, stage, step, rank).

Letters: B batch, T timesteps, P prompt steps, A action.
"""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from m3dt.config import LoaderConfig, ModelConfig
from m3dt.data.batch import Batch, ExpertParts
from m3dt.data.sampler import TaskSampler
from m3dt.data.store import DatasetStore, action_mask
from m3dt.utils.errors import UserError

_PROBE = 1_000_000  # keeps the random streams of probe batches apart from those of stages


@dataclass(frozen=True)
class TaskStream:
    """A sequence of batches over some tasks: all of them, or those of one expert."""

    key: int  # part of the random seed, such as the number of the expert
    tasks: tuple[int, ...]  # positions in the suite


@dataclass(frozen=True)
class ExpertStreams:
    """The streams of stage 2, one per expert: their batches are the equal parts of one batch."""

    streams: tuple[TaskStream, ...]


class M3DTDataModule(pl.LightningDataModule):
    """Serves the batches of one stage.

    Nothing needs saving to resume: batch s is drawn from a generator seeded by (seed, stage,
    stream, s), and each rank takes its share of the rows, so the world size changes no batch.
    The stage is 1, 2 or 3. The streams are one over all tasks, or one per expert.
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
        self.seed = seed
        self.stage = stage
        self.streams = streams.streams if isinstance(streams, ExpertStreams) else (streams,)
        # Experts share a batch in equal parts, but their groups differ in their number of tasks.
        self._own_prompts = isinstance(streams, ExpertStreams) and loader.sampling == "mixed"
        self.samplers = [TaskSampler(task, loader, model.max_timesteps) for task in store.tasks]

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Return a rank's share of the batch of a step."""
        parts = []
        for stream in self.streams:
            rng = np.random.default_rng((self.seed, self.stage, stream.key, step))
            part = self._draw(rng, self._sizes(stream, step), rank, world_size)
            parts.append(part.with_own_prompts() if self._own_prompts else part)
        ExpertParts(len(parts)).check([part.num_rows for part in parts])
        return Batch.concatenate(parts)

    def probe_batch(self, task: int, index: int = 0, batch_size: int | None = None) -> Batch:
        """Return a fixed batch of one task, seeded by (seed, task, index), for measurements."""
        rng = np.random.default_rng((self.seed, _PROBE, task, index))
        return self._draw(rng, {task: batch_size or self.loader.batch_size})

    def probe_batches(self, tasks: Sequence[int], batch_size: int | None = None) -> Batch:
        """Return the probe batches of several tasks in one, in their order."""
        return Batch.concatenate([self.probe_batch(task, batch_size=batch_size) for task in tasks])

    def _sizes(self, stream: TaskStream, step: int) -> dict[int, int]:
        """Return the tasks of a step, each with its number of rows."""
        n, B = len(stream.tasks), self.loader.batch_size
        if self.loader.sampling == "one_task":
            return {stream.tasks[step % n]: B}
        share = min(n, B, self.loader.tasks_per_batch or B)
        chosen = [stream.tasks[(step * share + i) % n] for i in range(share)]
        return {task: B // share + (i < B % share) for i, task in enumerate(chosen)}

    def _draw(
        self, rng: np.random.Generator, sizes: dict[int, int], rank: int = 0, world_size: int = 1
    ) -> Batch:
        """Draw rows of the global batch, `sizes` of each task, and keep every world_size-th."""
        parts = []
        offset = 0
        for task, size in sizes.items():
            sampler = self.samplers[task]
            rows = sampler.draw(rng, size, self.model.context_length)
            prompts, which = sampler.draw_prompts(rng, size, self.model.prompt_length)
            sampler.store.release()
            spec = sampler.store.spec
            # A mean over the task's real entries in the global batch, then over the tasks. Ranks
            # average their gradients, hence the factor world_size.
            entries = rows.attention_mask.sum() * spec.action_dim
            weight = world_size / (entries * len(sizes))
            mine = slice((rank - offset) % world_size, None, world_size)
            offset += size
            kept = len(rows.attention_mask[mine])
            parts.append(
                Batch(
                    rows.take(mine).segment(),
                    prompts.segment(),
                    torch.from_numpy(which[mine].copy()),
                    torch.from_numpy(np.tile(action_mask(spec), (kept, 1))),
                    torch.full((kept,), weight),
                    torch.full((kept,), task, dtype=torch.int64),
                )
            )
        return Batch.concatenate(parts)

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        if self.loader.batch_size % trainer.world_size:
            raise UserError(
                f"batch_size={self.loader.batch_size} of the stage, or else of loader, counts the "
                f"segments of all processes; make it a multiple of {trainer.world_size}"
            )
        return DataLoader(
            _Batches(self, trainer.global_rank, trainer.world_size),
            batch_size=None,
            sampler=_StepSampler(trainer),
            num_workers=self.loader.num_workers,
            worker_init_fn=_leave_signals_to_the_parent,
        )


def _leave_signals_to_the_parent(worker: int) -> None:
    """Go on where a signal reaches all of a job: the parent ends the step, then its workers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))


class _StepSampler(Sampler[int]):
    """Yields the numbers of batches from the trainer's current step on, without end."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        step = self.trainer.global_step
        while True:
            yield step
            step += 1


class _Batches(Dataset[Batch]):
    """Maps the number of a step to a rank's batch."""

    def __init__(self, module: M3DTDataModule, rank: int, world_size: int) -> None:
        self.draw = module.batch
        self.rank = rank
        self.world_size = world_size

    def __getitem__(self, step: int) -> Batch:
        return self.draw(step, self.rank, self.world_size)
