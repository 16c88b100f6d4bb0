"""Lightning's Trainer as m3dt uses it: TensorBoard logs, atomic checkpoints, no own bar."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from m3dt.config import Config
from m3dt.stages import Stage
from m3dt.training.fingerprint import precision
from m3dt.training.loggers import build_loggers
from m3dt.training.ranks import launcher_plugins
from m3dt.training.resume import AtomicCheckpointIO
from m3dt.utils.errors import RunError, UserError, is_out_of_memory
from m3dt.utils.processes import quiet_writers

# Arguments that explain no error.
_USUAL = {"accelerator": "auto", "devices": 1, "precision": "32-true"}
_ANOMALY = "returned nan values in its"  # of torch's error
_PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}
_EXPECTED_WARNINGS = (  # about what is done on purpose, here and in Lightning
    ".*constructed with capturable=True.*",
    ".*ModelCheckpoint with manual optimization.*",
    ".*LeafSpec.*",
    r".*module\(s\) in eval mode at the start of training.*",
    ".*does not have many workers.*",
)


def _check_callbacks(callbacks: list[pl.Callback], validates: bool) -> None:
    """Refuse a callback that would do nothing without a word."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None:
            raise UserError(
                "ModelCheckpoint with train_time_interval never saves here. Set checkpoint_minutes "
                "of the stage, or every_n_train_steps."
            )
        if isinstance(callback, EarlyStopping) and not validates:
            raise UserError(
                f"EarlyStopping(monitor={callback.monitor}) acts after validations, and there are "
                "none. Set loader.validation_trajectories, and validate_every of the stage."
            )


def _with_report(profiler: Any, folder: Path) -> Any:
    """Return a profiler that Lightning knows by a word with a file for its report."""
    kind = _PROFILERS.get(profiler) if isinstance(profiler, str) else None
    return profiler if kind is None else kind(dirpath=folder, filename="profile")


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
    validates = config.loader.validation_trajectories > 0
    _check_callbacks(callbacks, validates)
    # A value that is known after k steps is logged at k, and a checkpoint of step k contains it.
    purged = start + 1 if start else 0
    loggers = build_loggers(config, folder.name, purged)
    settings: dict[str, Any] = {"log_every_n_steps": 20, **config.trainer}
    settings["profiler"] = _with_report(settings.get("profiler"), Path(loggers[0].log_dir or ""))
    with arguments_refused(config):
        trainer = pl.Trainer(
            max_steps=stage.config.max_steps,
            max_epochs=-1,
            logger=loggers,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(), *launcher_plugins(config)],
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
    asked = precision(config)
    if trainer.precision != asked:  # Lightning takes another one where the device lacks it
        raise UserError(
            f"{config.sources.of('trainer.precision')}: trainer.precision={asked}: this device "
            f"would train in {trainer.precision}. Ask for that, or for 32-true."
        )
    return trainer


@contextmanager
def arguments_refused(
    config: Config, started: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Turn an error before the first step into one that names the Trainer's arguments.

    Lightning refuses some of them when it builds a Trainer, others when it fits, and some
    precisions show in the first product. An error that no argument of the user explains passes.

    Args:
        config: The experiment.
        started: Tells whether a step was taken.

    Raises:
        UserError: Names the arguments that the error mentions, or else all that the user gave.
        RunError: An anomaly was found that the user had asked to detect, at any step.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as raised:
        error = _before_teardown(raised)
        if isinstance(error, UserError | RunError):
            raise error from None
        if config.trainer.get("detect_anomaly") and _ANOMALY in str(error):
            raise RunError(
                f"trainer.detect_anomaly: {error} The warning above shows its forward pass."
            ) from None
        given = {k: v for k, v in config.trainer.items() if _USUAL.get(k) != v}
        expected = isinstance(error, MisconfigurationException | ValueError | TypeError)
        foreign = isinstance(error, OSError | UnpicklingError) or is_out_of_memory(error)
        if started() or foreign or not (given or expected) or "DataLoader" in str(error):
            raise error from None
        raise _refusal(config, given or config.trainer, error) from None


def _before_teardown(error: Exception) -> Exception:
    """Return what ended a fit where Lightning's teardown then failed for want of a loader."""
    while "combined_loader" in str(error) and isinstance(error.__context__, Exception):
        error = error.__context__
    return error


def _refusal(config: Config, given: Mapping[str, Any], error: Exception) -> UserError:
    def mentioned(words: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments whose key or other word the error's message contains."""
        patterns = {key: rf"(?<!\w){re.escape(str(word))}(?!\w)" for key, word in words.items()}
        return {key: given[key] for key in words if re.search(patterns[key], str(error))}

    chosen = mentioned({key: key for key in given}) or mentioned(given) or given
    named = {f"trainer.{key}": value for key, value in chosen.items()}
    shown = ", ".join(f"{key}={value}" for key, value in named.items())
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{config.sources.of(*named)}: {shown}: {reason}")


@contextmanager
def quiet_training() -> Iterator[None]:
    """Silence warnings about what is done on purpose."""
    with warnings.catch_warnings(), quiet_writers():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield
