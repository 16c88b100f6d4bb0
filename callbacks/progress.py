"""A progress bar that counts optimiser steps."""

import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich.progress import Progress
from torch import Tensor

from m3dt.engine.records import log_values
from m3dt.utils.console import make_console, progress_bar


class ProgressCallback(pl.Callback):
    """Shows steps, rate, time left and the mean loss since the last update.

    Without a terminal, it prints a line at every update.

    Logged: `time/steps_per_second`.

    Example, in a configuration::

        callbacks:
          progress:
            class: m3dt.callbacks.ProgressCallback

    Args:
        every_n_seconds: Time between two updates of the loss and the rate.
    """

    def __init__(self, every_n_seconds: float = 10.0) -> None:
        self.every_n_seconds = every_n_seconds
        self.console = make_console()
        self.label = ""
        self._bar: Progress | None = None
        self._row: Any = None
        self._since = (0.0, 0)  # time and step of the last update
        self._losses: list[Tensor] = []  # since the last update

    def deciding_settings(self) -> dict[str, Any]:
        """Return the settings that decide which weights are kept: none."""
        return {}

    def next_step(self, step: int) -> None:
        """Return the next step after `step` at which this callback must be called: none."""
        return None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.label = getattr(pl_module, "title", "training")
        self._bar = progress_bar(self.console, "steps")
        self._row = self._bar.add_task(
            self.label, total=trainer.max_steps, completed=trainer.global_step
        )
        self._bar.start()
        self._losses.clear()
        self._since = (time.monotonic(), trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        *args: Any,
    ) -> None:
        if self._bar is None:
            return
        self._bar.update(self._row, completed=trainer.global_step)
        assert isinstance(outputs, Mapping)
        self._losses.append(outputs["losses"])
        if time.monotonic() - self._since[0] >= self.every_n_seconds:
            self._show(trainer, self._bar)

    def _show(self, trainer: pl.Trainer, bar: Progress) -> None:
        """Update the loss and the rate."""
        now, step = time.monotonic(), trainer.global_step
        rate = (step - self._since[1]) / (now - self._since[0])
        loss = torch.cat(self._losses).nanmean().item()  # without skipped steps
        bar.update(self._row, description=f"{self.label}  loss {loss:.4f}")
        if not self.console.is_terminal:
            left = (trainer.max_steps - step) / max(rate, 1e-9)
            self.console.print(
                f"  {self.label}: step {step} of {trainer.max_steps}, {rate:.1f} steps/s, "
                f"loss {loss:.4f}, {left:.0f} s left"
            )
        log_values(trainer, {"time/steps_per_second": rate}, step)
        self._losses.clear()
        self._since = (now, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
