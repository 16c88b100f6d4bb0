"""What measuring callbacks share: a schedule of records, and a history that checkpoints carry."""

from abc import ABC, abstractmethod
from typing import Any

import lightning.pytorch as pl

from m3dt.data import M3DTDataModule
from m3dt.engine.chunks import next_multiple
from m3dt.engine.records import log_values, publish
from m3dt.stages import Stage


class Recorder(pl.Callback, ABC):
    """Takes a record every `every_n_steps` optimiser steps; checkpoints carry the history.

    Loggers get the values of a record, and `trainer.callback_metrics` has those of the newest one.

    It takes none of the router by prompts, which trains without the model that acts.

    Args:
        every_n_steps: Optimiser steps between records.
        batch_size: Segments of a task's fixed batch; by default the loader's.

    Attributes:
        history: The records, each with its `step`.
    """

    before_training = True  # whether the first record is taken before the first step
    on_every_rank = True  # whether all ranks take the records, else only the first

    def __init__(self, every_n_steps: int = 10_000, batch_size: int | None = None) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be 1 or more")
        self.every_n_steps = every_n_steps
        self.batch_size = batch_size
        self.history: list[dict[str, Any]] = []

    @abstractmethod
    def record(
        self, trainer: pl.Trainer, stage: Stage, data: M3DTDataModule
    ) -> dict[str, Any] | None:
        """Measure and return a record, or None if there is none to take on this rank."""

    @abstractmethod
    def scalars(self) -> dict[str, float]:
        """Return the values of the newest record, by the names under which they are logged."""

    def show(self, trainer: pl.Trainer, data: M3DTDataModule) -> None:
        """Draw the newest record: here nothing."""

    def deciding_settings(self) -> dict[str, Any]:
        """Return what decides which weights are kept: nothing, for a callback that observes."""
        return {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.history:  # resumed
            self._publish(trainer)
        elif self.before_training:
            self._take(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        last = self.history[-1]["step"] if self.history else 0
        if trainer.global_step > last and self.is_due(trainer):
            self._take(trainer, pl_module)

    def is_due(self, trainer: pl.Trainer) -> bool:
        """Tell whether a record belongs to the current step."""
        return trainer.global_step % self.every_n_steps == 0

    def next_step(self, step: int) -> int | None:
        """Return the next step after `step` at which this callback must be called."""
        return next_multiple(step, self.every_n_steps)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]

    def _take(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Stage)
        if not pl_module.trains_actions:
            return
        measured = self.record(trainer, pl_module, pl_module.data)
        if measured is not None:
            self.history.append({"step": trainer.global_step, **measured})
            log_values(trainer, self.scalars(), trainer.global_step)
            self._publish(trainer)
            self.show(trainer, pl_module.data)

    def _publish(self, trainer: pl.Trainer) -> None:
        """Let other callbacks watch the newest values, which all ranks must have."""
        if self.on_every_rank or trainer.world_size == 1:
            publish(trainer, self.scalars())
