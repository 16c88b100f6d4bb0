"""The engine of a stage: it decides how steps run, runs them, and reports what they measured."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import AdamW

from m3dt.config import ComputeConfig
from m3dt.data import Chunk, Draws, M3DTDataModule
from m3dt.engine.bad_steps import BadSteps
from m3dt.engine.choices import Choices, choose
from m3dt.engine.chunks import ChunkPlan, next_multiple
from m3dt.engine.optimizer_steps import Steps, Taken
from m3dt.engine.records import log_values
from m3dt.engine.trainable import Trainable
from m3dt.models import capturable
from m3dt.utils.counts import agreeing
from m3dt.utils.errors import RunError


class Engine:
    """Takes the optimiser steps of a stage in chunks.

    Attributes:
        compute: How steps run.
        bad_steps: Counts steps whose loss or gradient is not finite; they change nothing.
    """

    def __init__(self, stage: Trainable) -> None:
        self.stage = stage
        self.compute = ComputeConfig()
        self.bad_steps = BadSteps()
        self._choices = Choices(graph=False, compile=False)
        self._trainer: pl.Trainer | None = None
        self._plan: ChunkPlan | None = None
        self._steps: Steps | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        """Copy the settings alone, for callbacks that copy a stage to average its weights."""
        copied = Engine(copy.deepcopy(self.stage, memo))
        copied.compute = self.compute
        return copied

    def prepared_for(self, trainer: pl.Trainer) -> bool:
        """Tell whether `prepare` was called with this trainer."""
        return self._trainer is trainer

    def prepare(self, trainer: pl.Trainer, data: M3DTDataModule) -> str:
        """Decide how steps run and plan the chunks, before the trainer fits.

        Returns:
            What was decided, or an empty string for plain steps.

        Raises:
            UserError: The settings ask for what this device cannot do.
        """
        self._trainer = trainer
        self._choices = choose(self.compute, trainer, capturable(self.stage.model))
        interval = self.stage.config.validate_every if data.validates else 0
        further = [
            self.stage.next_step,
            lambda step: next_multiple(step, interval),
            lambda step: self.stage.last_step,
        ]
        # Ranks must agree, also where the data fits on some devices alone.
        largest = data.largest_chunk(ahead=trainer.world_size > 1)
        self._plan = ChunkPlan(trainer, self.compute.steps_per_call, largest, further)
        data.chunk_steps = self._plan
        return f"{self.stage.title}: {self._choices}" if str(self._choices) else ""

    def start(self) -> None:
        """Begin or resume: optimiser and weights are on the device."""
        stage, trainer = self.stage, self.stage.trainer
        optimizer = trainer.optimizers[0]
        assert isinstance(optimizer, AdamW)
        for group in optimizer.param_groups:  # a checkpoint may have brought others
            group.update(
                weight_decay=stage.config.weight_decay, fused=True, capturable=self._choices.graph
            )
        self._steps = Steps(stage, trainer, optimizer, stage.data.gather, self._choices)

    def finish(self) -> None:
        """Let go of the graph and what it holds on the device."""
        self._steps = None

    def take(self, chunk: Chunk) -> dict[str, Tensor]:
        """Take the steps of a chunk.

        Returns:
            The loss of each step, `losses`, and of the last one, `loss`; in stage 2, means over
            the experts.

        Raises:
            RunError: The loss or the gradient of too many steps was not finite.
        """
        assert self._steps is not None and self._plan is not None
        taken = self._steps.run(chunk)
        self._plan.adapt(taken.seconds, chunk.num_steps)
        bad = self._count_bad_steps(taken)
        most = self.stage.config.max_bad_steps
        fatal = next((number for number, count in bad.items() if count > most), None)
        self._log(chunk.first, taken, bad, chunk.num_steps if fatal is None else fatal + 1)
        if fatal is not None:
            raise self._too_many(chunk, taken, fatal)
        losses = torch.tensor(taken.losses)
        return {"loss": losses[-1], "losses": losses}

    def _count_bad_steps(self, taken: Taken) -> dict[int, int]:
        """Return the number of bad steps so far at each bad step of a chunk."""
        counts, float16 = {}, str(self.stage.trainer.precision) == "16-mixed"
        for number, (loss, norm) in enumerate(zip(taken.losses, taken.norms, strict=True)):
            if self.bad_steps.is_bad(loss, norm, float16):
                counts[number] = self.bad_steps.count
        return counts

    def _too_many(self, chunk: Chunk, taken: Taken, number: int) -> RunError:
        """Return the error that ends a training; it blames the tasks of rows with a bad loss."""
        inputs, stage = chunk.inputs(number), self.stage
        task_index = inputs.task if isinstance(inputs, Draws) else inputs.task_index
        rows = torch.nonzero(~taken.row_losses[number].isfinite()).flatten().tolist()
        blamed = task_index[rows] if rows else task_index
        tasks = ", ".join(stage.data.store.tasks[i].spec.name for i in blamed.unique().tolist())
        most = stage.config.max_bad_steps
        skipped = agreeing(most, "1 such step was", f"{most} such steps were")
        return RunError(
            f"{stage.title}: loss or gradient is not finite at step {chunk.first + number}, after "
            f"{skipped} skipped. The batch is of {tasks}"
            f"{f' (rows {rows})' if rows else ''}. The last checkpoint holds finite weights. Lower "
            "the learning rate, or look at the data with `m3dt verify`."
        )

    def _log(self, first: int, taken: Taken, bad: dict[int, int], steps: int) -> None:
        """Write the values of a chunk's first steps, each at the number of steps done by then."""
        trainer, last = self.stage.trainer, {}
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        values = zip(taken.losses[:steps], taken.norms[:steps], strict=True)
        for number, (loss, norm) in enumerate(values):
            done = first + number + 1
            last = {"train/loss": loss, "train/gradient_norm": norm}
            wanted = {"learning_rate": self.stage.learning_rate(done - 1), **last}
            if number in bad:
                wanted = {"train/bad_steps": float(bad[number])}
            if number in bad or (every and done % every == 0):
                log_values(trainer, wanted, done)
        for name, value in last.items():  # for callbacks that watch them
            self.stage.log(name, value, logger=False)
