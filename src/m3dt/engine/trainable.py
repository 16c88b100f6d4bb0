"""What the engine needs of a stage.

Letters: B batch.
"""

from collections.abc import Callable
from typing import Protocol

import lightning.pytorch as pl
from torch import Tensor, nn

from m3dt.config import StageConfig
from m3dt.data import Batch, M3DTDataModule
from m3dt.models import PromptDT


class Trainable(Protocol):
    """A LightningModule whose optimiser steps the engine takes."""

    model: PromptDT
    config: StageConfig
    num_losses: int  # losses that are summed up
    prepare_forward_pass: Callable[[], None]  # lays out what all forward passes read

    @property
    def title(self) -> str:
        """Its name in messages."""

    @property
    def trainer(self) -> pl.Trainer:
        """Lightning's trainer."""

    @property
    def data(self) -> M3DTDataModule:
        """The batches that it trains on."""

    @property
    def last_step(self) -> int | None:
        """The number of steps after which a stopped training ends; None without a stop."""

    def log(self, name: str, value: float, *, logger: bool) -> None:
        """Lightning's log."""

    def manual_backward(self, loss: Tensor) -> None:
        """Lightning's backward pass."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the parameters that train."""

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""

    def seed_of(self, step: int) -> int:
        """Return the seed of a step's dropout."""

    def next_step(self, step: int) -> int | None:
        """Return the next step after `step` that must begin a chunk, or None."""

    def begin_step(self, batch: Batch) -> None:
        """Do what precedes the forward pass."""

    def step_losses(self, batch: Batch) -> Tensor:
        """Return what each row adds to the loss of a step, (B,)."""

    def clip(self, parameters: list[nn.Parameter]) -> Tensor:
        """Clip the gradients; return the norm before."""

    def end_step(self) -> None:
        """Do what follows the optimiser step."""
