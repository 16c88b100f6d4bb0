"""Give measured values to every logger of a training, and to the callbacks that watch them."""

from collections.abc import Mapping

import lightning.pytorch as pl
import torch


def log_values(trainer: pl.Trainer, values: Mapping[str, float], step: int) -> None:
    """Write values at a step to all loggers."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=step)


def publish(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Put values among `trainer.callback_metrics`, which EarlyStopping and others watch."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
