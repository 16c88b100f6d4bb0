"""Measures how much the tasks' gradients disagree, and stops stage 1 at the peak (section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from m3dt.data import M3DTDataModule
from m3dt.plots import conflict_curve, heat_map
from m3dt.stages import Stage, evaluation_mode

from .conflict_measures import ConflictTable, measure
from .recorder import Recorder


class GradientConflictCallback(Recorder):
    """Tracks gradient conflict between tasks, and stops when it has peaked.

    Conflict is 1 - mean_i cos(g_i, G), with G the mean of the tasks' gradients g_i (appendix A.4),
    on one fixed batch a task, without dropout, in the weights' precision. Independent random
    gradients have a similarity of 1/sqrt(N), which is logged beside it, as are the leave-one-out
    and the pairwise cosine, which have no such floor.

    Training stops when the conflict, averaged over `window` records, has not exceeded its largest
    value for `patience` records, if it rose by `min_rise` to get there. The registry then keeps the
    weights at that peak. Training is bit-identical with and without this callback until it stops.

    Logged: `conflict/mean`, `conflict/smoothed`, `conflict/attention`, `conflict/mlp`,
    `conflict/block<i>` (all 1 - similarity), `similarity/to_mean`, `similarity/leave_one_out`,
    `similarity/pairwise`, `similarity/independent`, and as images every task's similarity and the
    curve with its peak and the step of the stop.

    Example, in a configuration::

        callbacks:
          conflict:
            class: m3dt.callbacks.GradientConflictCallback
            stages: [stage1]
            every_n_steps: 200
            min_steps: 1000
            patience: 5

    Args:
        every_n_steps: Optimiser steps between records; the first is taken before training.
        min_steps: Records before this step cannot be the peak.
        patience: Records without a new maximum after which training stops.
        window: Records that are averaged.
        min_rise: Least rise of the smoothed conflict from its minimum to the peak.
        stop: Whether to stop at all; else the callback only observes.
        batch_size: Segments of a task's fixed batch; default the loader's.
    """

    def __init__(
        self,
        every_n_steps: int = 10_000,
        min_steps: int = 0,
        patience: int = 5,
        window: int = 5,
        min_rise: float = 0.01,
        stop: bool = True,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(every_n_steps)
        for name, value in (("patience", patience), ("window", window)):
            if value < 1:
                raise ValueError(f"{name}={value} must be 1 or more")
        self.min_steps = min_steps
        self.patience = patience
        self.window = window
        self.min_rise = min_rise
        self.stop = stop
        self.batch_size = batch_size
        self.stopped_at: int | None = None
        self._peak: tuple[int, dict[str, Tensor]] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.stopped_at is not None:  # resumed from the checkpoint of the stop itself
            trainer.should_stop = True
        super().on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        known = len(self.history)
        super().on_train_batch_end(trainer, pl_module)
        if len(self.history) > known:
            if self.stop and self.peaked():
                self.stopped_at = trainer.global_step
                trainer.should_stop = True
            self._draw(trainer)

    def deciding_settings(self) -> dict[str, Any]:
        """Return the settings of the stop, or nothing where the callback only observes."""
        names = ("every_n_steps", "min_steps", "patience", "window", "min_rise", "batch_size")
        return {name: getattr(self, name) for name in names} if self.stop else {}

    def selected_weights(self) -> tuple[int, dict[str, Tensor]] | None:
        """Return step and weights of the peak if it ended the training, else None."""
        return self._peak if self.stopped_at is not None else None

    def metrics(self) -> dict[str, Any]:
        """Return the whole record, for the registry."""
        return {"conflict": {"stopped_at": self.stopped_at, "history": self.history}}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "stopped_at": self.stopped_at, "peak": self._peak}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.stopped_at = state_dict["stopped_at"]
        self._peak = state_dict["peak"]

    def peaked(self) -> bool:
        """Tell whether the smoothed conflict has risen, reached its maximum, and stayed below."""
        smoothed = [record["smoothed"] for record in self.history]
        first = next((i for i, r in enumerate(self.history) if r["step"] >= self.min_steps), None)
        if first is None:
            return False
        peak = max(range(first, len(smoothed)), key=smoothed.__getitem__)
        rise = smoothed[peak] - min(smoothed[: peak + 1])
        return len(smoothed) - 1 - peak >= self.patience and rise >= self.min_rise

    def record(self, trainer: pl.Trainer, stage: Stage, data: M3DTDataModule) -> dict[str, Any]:
        """Measure, and keep the weights if the conflict has never been higher."""
        record = _summary(self._measure(trainer, stage, data))
        means = [r["mean"] for r in (*self.history, record)][-self.window :]
        record["smoothed"] = sum(means) / len(means)
        step = trainer.global_step
        before = [r["smoothed"] for r in self.history if r["step"] >= self.min_steps]
        if step >= self.min_steps and record["smoothed"] >= max(before, default=-math.inf):
            weights = {n: p.detach().cpu().clone() for n, p in stage.trainable().items()}
            self._peak = (step, weights)
        return record

    def show(self, trainer: pl.Trainer, data: M3DTDataModule) -> None:
        """Log every measure, and each task's similarity as an image."""
        if trainer.logger is not None:
            trainer.logger.log_metrics(_scalars(self.history[-1]), step=trainer.global_step)
            _log_heat_map(trainer, self.history, [t.spec.name for t in data.store.tasks])

    def _draw(self, trainer: pl.Trainer) -> None:
        """Log the curve with its peak, which is the last picture's to tell where it stopped."""
        if isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero:
            peak = self._peak[0] if self._peak else None
            figure = conflict_curve(self.history, peak, self.stopped_at)
            step = self.history[-1]["step"]
            trainer.logger.experiment.add_figure("conflict/curve", figure, global_step=step)

    def _measure(self, trainer: pl.Trainer, stage: Stage, data: M3DTDataModule) -> ConflictTable:
        parameters = stage.trainable()

        def gradient(task: int) -> Sequence[Tensor]:
            batch = data.probe_batch(task, batch_size=self.batch_size)
            batch = stage.transfer_batch_to_device(batch, stage.device, 0)
            return torch.autograd.grad(stage.loss(batch), list(parameters.values()))

        full_precision = torch.autocast(stage.device.type, enabled=False)
        with evaluation_mode(stage), torch.enable_grad(), full_precision:
            return measure(
                list(parameters),
                gradient,
                len(data.store.tasks),
                trainer.global_rank,
                trainer.world_size,
            )


def _summary(table: ConflictTable) -> dict[str, Any]:
    """Return one record: every measure that is logged, and each task's similarity."""
    per_task = table.to_mean()

    def conflict_of(pattern: str) -> float:
        return 1 - table.to_mean(lambda part: fnmatch(part, pattern)).mean().item()

    inside = [part.split("/") for part in table.parts if "/" in part]
    blocks = dict.fromkeys(block for block, _ in inside)
    kinds = dict.fromkeys(kind for _, kind in inside)
    return {
        "mean": 1 - per_task.mean().item(),
        "leave_one_out": table.leave_one_out().mean().item(),
        "pairwise": table.pairwise(),
        "independent": 1 / math.sqrt(len(per_task)),
        "parts": {
            **{kind: conflict_of(f"*/{kind}") for kind in kinds},
            **{block: conflict_of(f"{block}/*") for block in blocks},
        },
        "per_task": per_task.tolist(),
    }


def _scalars(record: dict[str, Any]) -> dict[str, float]:
    return {
        "conflict/mean": record["mean"],
        "conflict/smoothed": record["smoothed"],
        **{f"conflict/{part}": value for part, value in record["parts"].items()},
        "similarity/to_mean": 1 - record["mean"],
        "similarity/leave_one_out": record["leave_one_out"],
        "similarity/pairwise": record["pairwise"],
        "similarity/independent": record["independent"],
    }


def _log_heat_map(trainer: pl.Trainer, history: list[dict[str, Any]], tasks: list[str]) -> None:
    if not isinstance(trainer.logger, TensorBoardLogger) or not trainer.is_global_zero:
        return
    figure = heat_map(
        torch.tensor([record["per_task"] for record in history]).T.numpy(),
        rows=tasks,
        columns=[str(record["step"]) for record in history],
        title="similarity of each task's gradient to the mean",
        x_label="step",
    )
    trainer.logger.experiment.add_figure(
        "conflict/per_task", figure, global_step=history[-1]["step"]
    )
