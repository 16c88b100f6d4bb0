"""Fit a stage: from the newest checkpoint, to its end or to a signal, with the weights to keep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from rich.console import Console
from torch import Tensor

from m3dt.config import Config, config_values
from m3dt.data import M3DTDataModule
from m3dt.stages import Stage
from m3dt.training.checkpointing import CheckpointCallback
from m3dt.training.resume import FORCED, check_resume, check_space, newest_checkpoint, step_of
from m3dt.training.run import Fitted
from m3dt.training.signals import Signals, plain_exits
from m3dt.training.trainer import arguments_refused, make_trainer, quiet_training
from m3dt.utils.errors import RunError
from m3dt.utils.processes import no_children_left


@runtime_checkable
class WeightSelector(Protocol):
    """A callback that decides which weights of a training are kept, instead of the last."""

    def selected_weights(self) -> tuple[int, dict[str, Tensor]] | None:
        """Return a step and the trainable weights then, or None for the last ones."""


def fit(
    config: Config,
    stage: Stage,
    data: M3DTDataModule,
    callbacks: list[pl.Callback],
    settings: dict[str, Any],
    folder: Path,
    console: Console,
) -> Fitted:
    """Train a stage to its end, from the newest checkpoint of an interrupted run if there is one.

    Args:
        config: The experiment.
        stage: The stage; its model is left with the weights to keep.
        data: Its batches.
        callbacks: From `build_callbacks`.
        settings: What the weights depend on; an interrupted run must have had the same.
        folder: Of the checkpoints, held by `training_folder`.
        console: Receives messages.

    Raises:
        UserError: An interrupted run had other settings, or the disk is full.
        RunError: Training ended early.
    """
    checkpoint = newest_checkpoint(folder)
    start = step_of(checkpoint) if checkpoint else 0
    signals, name = Signals(), folder.name
    saver = CheckpointCallback(folder, stage.config, signals)
    trainer = make_trainer(config, stage, [*callbacks, saver], folder, start)
    forced = check_resume(folder, settings, config.force, console)  # the trainer took its arguments
    check_space(folder, stage.model, stage.config, start)
    if checkpoint:
        console.print(f"resuming {name} at step {start}")
    for line in filter(None, _prepare(config, stage, data, trainer)):
        console.print(line)
    with (
        no_children_left(),
        quiet_training(),
        plain_exits(trainer, signals, config.run, name, checkpoint, console),
        arguments_refused(config, lambda: trainer.global_step > start),
    ):
        trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    _check_end(trainer, stage, name)
    selected = _keep_selected(stage, callbacks, console)
    step = trainer.global_step if selected is None else selected
    measured = {FORCED: forced} if forced else {}
    return Fitted(step, {**measured, **_measured(trainer, stage, data, callbacks)})


def _prepare(
    config: Config, stage: Stage, data: M3DTDataModule, trainer: pl.Trainer
) -> tuple[str, ...]:
    """Prepare stage and data for a trainer; return what was decided, for the console."""
    stage.save_hyperparameters(config_values(config))  # Lightning gives them to all loggers
    stage.set_compute(config.compute)
    size = sum(parameter.nbytes for parameter in stage.model.parameters())
    profiled = f"{stage.title}: the profiler writes its report into {trainer.loggers[0].log_dir}"
    return (
        data.place(trainer.strategy.root_device, size),
        stage.engine.prepare(trainer, data),
        profiled if config.trainer.get("profiler") else "",
    )


def _check_end(trainer: pl.Trainer, stage: Stage, name: str) -> None:
    """Refuse a training that ended before its last step, unless a callback stopped it."""
    if trainer.global_step < stage.config.max_steps and not trainer.should_stop:
        raise RunError(
            f"{name} ended early, at step {trainer.global_step} of {stage.config.max_steps}"
        )


def _keep_selected(stage: Stage, callbacks: Sequence[pl.Callback], console: Console) -> int | None:
    """Say what callbacks decided; give the model the weights that one selected; return their step.

    A callback's `outcome()` says what it decided and why, or nothing.
    """
    step = None
    for callback in callbacks:
        outcome = getattr(callback, "outcome", str)()
        if outcome:
            console.print(f"{stage.title}: {outcome}")
        selected = callback.selected_weights() if isinstance(callback, WeightSelector) else None
        if selected is not None:
            step, weights = selected
            with torch.no_grad():
                for name, parameter in stage.trainable().items():
                    parameter.copy_(weights[name])
    return step


def _measured(
    trainer: pl.Trainer, stage: Stage, data: M3DTDataModule, callbacks: Sequence[pl.Callback]
) -> dict[str, Any]:
    """Return what the callbacks measured, the last loss, and the kept weights' held-out loss."""
    found: dict[str, Any] = {}
    for callback in callbacks:
        metrics = getattr(callback, "metrics", None)
        found.update(metrics() if callable(metrics) else {})
    loss = trainer.callback_metrics.get("train/loss")
    if loss is not None:
        found["train/loss"] = float(loss)
    if data.validates:
        trainer.loggers = []  # training has logged its own validations
        with quiet_training():
            (held_out,) = trainer.validate(stage, datamodule=data, verbose=False)
        found["val/loss"] = held_out["val/loss"]
    return found
