"""Run Lightning's Trainer on a stage: callbacks, logs, signals."""

from __future__ import annotations

import errno
import importlib
import inspect
import logging
import signal
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from rich.console import Console
from torch import Tensor

from m3dt.config import Config
from m3dt.data import M3DTDataModule
from m3dt.errors import RunError, UserError, nearest
from m3dt.processes import quiet_writers
from m3dt.resuming import FORCED, AtomicCheckpointIO, check_space, newest_checkpoint, take_up
from m3dt.signals import CHECKPOINT, SaveOnSignal, Told
from m3dt.stages import Stage, WeightSelector


class StepLogger(TensorBoardLogger):
    """TensorBoard without the curve of epochs, of which a run has one."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, step)


def build_callbacks(config: Config, stage: str) -> list[pl.Callback]:
    """Build the callbacks that the configuration names for a stage.

    Raises:
        UserError: A class or an argument does not exist, or a value is refused.
    """
    built = []
    for name, given in config.callbacks.items():
        where = f"callbacks.{name}"
        if given is None:
            continue  # switched off
        if not isinstance(given, dict) or "class" not in given:
            raise UserError(f"{where}: needs 'class', the dotted path of a callback")
        arguments = {k: v for k, v in given.items() if k not in ("class", "stages")}
        kind = _import_class(where, given["class"])
        known = list(inspect.signature(kind).parameters)
        for key in arguments:
            if key not in known:
                raise UserError(f"unknown key '{where}.{key}'.{nearest(key, known)}")
        try:
            callback = kind(**arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {error}") from None
        stages = given.get("stages", [stage])
        if not isinstance(stages, list):
            raise UserError(f"{where}.stages={stages}: must be a list, such as [stage1, stage3]")
        if stage in stages:
            built.append(callback)
    return built


def _import_class(where: str, path: str) -> type[pl.Callback]:
    module_name, _, class_name = str(path).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError):
        raise UserError(f"{where}.class={path}: cannot be imported") from None
    if not (inspect.isclass(kind) and issubclass(kind, pl.Callback)):
        raise UserError(f"{where}.class={path}: is no lightning Callback")
    return kind


def fit(
    config: Config,
    stage: Stage,
    data: M3DTDataModule,
    callbacks: list[pl.Callback],
    settings: dict[str, Any],
    folder: Path,
    console: Console,
) -> tuple[int, dict[str, Any]]:
    """Train a stage to its end, from the newest checkpoint of an interrupted run if there is one.

    Args:
        config: The experiment.
        stage: The stage, whose model is left with the weights to keep.
        data: Its batches.
        callbacks: What `build_callbacks` returned.
        settings: What the weights depend on; an interrupted run must have had the same.
        folder: Where checkpoints are kept while training, held by `training_folder`.
        console: Where messages go.

    Returns:
        The step behind the weights, and what the callbacks measured.
    """
    forced = take_up(folder, settings, config.force, console)
    check_space(folder, stage.model)
    checkpoint = newest_checkpoint(folder)
    start = int(checkpoint.stem.removeprefix("step")) if checkpoint else 0
    if checkpoint:
        console.print(f"resuming [bold]{folder.name}[/] at step {start}")
    stage.model.use(config.compute)
    signals = SaveOnSignal(folder)
    trainer = _trainer(config, stage, [*callbacks, signals], folder, start)
    with warnings.catch_warnings(), quiet_writers():
        # Choices made here, and a word of lightning to torch.
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        warnings.filterwarnings("ignore", r".*module\(s\) in eval mode at the start of training.*")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
        try:
            trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except Told as told:
            console.print(f"{folder.name}: saved at step {trainer.global_step} on {told}.")
            _leave(told.signal)
        except UnpicklingError:  # it would execute something, or is none of ours
            raise UserError(
                f"{checkpoint}: not a checkpoint of m3dt. Delete it, or give another run=FOLDER."
            ) from None
        except SIGTERMException:  # before the first step
            raise SystemExit(143) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"{config.run}: {error.strerror}. The newest checkpoint is whole: free space, and "
                "the same command goes on from there."
            ) from None
        except SystemExit:
            if trainer.interrupted:  # lightning turns Ctrl-C into exit code 1
                raise KeyboardInterrupt from None
            raise
        finally:
            signals.restore()
    if signals.received:  # behind the last step: the training is over, what follows it is not
        _leave(signals.received)
    step = trainer.global_step
    if step < stage.config.max_steps and not trainer.should_stop:
        raise RunError(f"{folder.name} ended early, at step {step} of {stage.config.max_steps}")
    metrics: dict[str, Any] = {FORCED: forced} if forced else {}
    for callback in callbacks:
        if isinstance(callback, WeightSelector):
            selected = callback.selected_weights()
            if selected is not None:
                step, weights = selected
                _restore(stage, weights)
        measured = getattr(callback, "metrics", None)
        metrics.update(measured() if callable(measured) else {})
    loss = trainer.callback_metrics.get("train/loss")
    if loss is not None:
        metrics["train/loss"] = float(loss)
    return step, metrics


def _leave(number: int) -> NoReturn:
    if number == signal.SIGTERM:
        raise SystemExit(143) from None
    raise KeyboardInterrupt from None


def _restore(stage: Stage, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in stage.trainable().items():
            parameter.copy_(weights[name])


def _trainer(
    config: Config, stage: Stage, callbacks: list[pl.Callback], folder: Path, start: int
) -> pl.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    saver = ModelCheckpoint(
        folder,
        filename=CHECKPOINT.removesuffix(".ckpt"),
        auto_insert_metric_name=False,
        monitor="step",
        mode="max",
        save_top_k=2,
        every_n_train_steps=stage.config.checkpoint_every,
        enable_version_counter=False,
    )
    logger = StepLogger(
        config.run, name="logs", version=folder.name, default_hp_metric=False, purge_step=start
    )
    settings: dict[str, Any] = {"log_every_n_steps": 20, **config.trainer}
    try:
        return pl.Trainer(
            max_steps=stage.config.max_steps,
            max_epochs=-1,
            logger=logger,
            callbacks=[*callbacks, LearningRateMonitor("step"), saver],
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **settings,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {error}") from None
