"""Lightning's Trainer as m3dt uses it: TensorBoard logs, atomic checkpoints, no own bar."""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from m3dt.config import Config
from m3dt.stages import Stage
from m3dt.training.resume import AtomicCheckpointIO
from m3dt.utils.errors import UserError
from m3dt.utils.processes import quiet_writers

_EXPECTED_WARNINGS = (  # about what is done on purpose, here and in Lightning
    ".*constructed with capturable=True.*",
    ".*ModelCheckpoint with manual optimization.*",
    ".*LeafSpec.*",
    r".*module\(s\) in eval mode at the start of training.*",
    ".*does not have many workers.*",
)


class StepLogger(TensorBoardLogger):
    """TensorBoard without the curve of epochs: a run has only one."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, step)


def make_trainer(
    config: Config, stage: Stage, callbacks: list[pl.Callback], folder: Path, start: int
) -> pl.Trainer:
    """Build the Trainer of a stage.

    Args:
        config: The experiment; its `trainer` section holds Lightning's own arguments.
        stage: The stage.
        callbacks: Ours and the user's.
        folder: Of the checkpoints.
        start: Step of the checkpoint from which training resumes, or 0. Earlier processes may have
            logged later steps: those records are dropped, as training repeats them.

    Raises:
        UserError: Lightning refuses an argument.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None:
            raise UserError(
                "ModelCheckpoint with train_time_interval never saves here. Set checkpoint_minutes "
                "of the stage, or every_n_train_steps."
            )
    # A value that is known after k steps is logged at k, and a checkpoint of step k contains it.
    purged = start + 1 if start else 0
    logger = StepLogger(
        config.run, name="logs", version=folder.name, default_hp_metric=False, purge_step=purged
    )
    settings: dict[str, Any] = {"log_every_n_steps": 20, **config.trainer}
    validates = config.loader.validation_trajectories > 0
    try:
        return pl.Trainer(
            max_steps=stage.config.max_steps,
            max_epochs=-1,
            logger=logger,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            val_check_interval=stage.config.validate_every if validates else None,
            check_val_every_n_epoch=None,  # the interval counts optimiser steps
            limit_val_batches=1.0 if validates else 0,
            num_sanity_val_steps=0,
            **settings,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise _refusal(config, error) from None


def _refusal(config: Config, error: Exception) -> UserError:
    """Return the error that names the arguments that Lightning's message mentions, or else all."""
    quoted = {
        key: value
        for key, value in config.trainer.items()
        if re.search(rf"(?<!\w)({key}|{re.escape(str(value))})(?!\w)", str(error))
    }
    given = {f"trainer.{key}": value for key, value in (quoted or config.trainer).items()}
    named = ", ".join(f"{key}={value}" for key, value in given.items())
    return UserError(f"{config.sources.of(*given)}: {named}: {error}")


@contextmanager
def quiet_training() -> Iterator[None]:
    """Silence warnings about what is done on purpose."""
    with warnings.catch_warnings(), quiet_writers():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield
