"""Measure how much the tasks' gradients disagree, and stop stage 1 at the peak (section 4.1)."""

import math
from dataclasses import asdict
from fnmatch import fnmatch
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from m3dt.data import M3DTDataModule
from m3dt.plots import conflict_curve, heat_map
from m3dt.stages import Stage
from m3dt.stages.gradients import gradient_memory, probe_gradients
from m3dt.stages.stopping import StoppingRule, find_peak, should_stop, smooth

from .conflict_measures import ConflictTable, measure
from .recorder import Recorder


class GradientConflictCallback(Recorder):
    """Tracks gradient conflict between tasks, and stops when it has peaked.

    Conflict is 1 - mean_i cos(g_i, G), where G is the mean of the tasks' gradients g_i (appendix
    A.4). Gradients are taken on one fixed batch per task, without dropout, in the precision of the
    weights. Independent random gradients have a similarity of 1/sqrt(N), which is logged too; so
    are the leave-one-out and the pairwise cosine, which have no such floor.

    `m3dt.stages.stopping` decides when to stop. The registry then keeps the weights of the peak.
    Training is bit-identical with and without this callback until it stops.

    Logged: `conflict/mean`, `conflict/smoothed`, `conflict/attention`, `conflict/mlp`,
    `conflict/block<i>` (all 1 - similarity), `similarity/to_mean`, `similarity/leave_one_out`,
    `similarity/pairwise`, `similarity/independent`. As images: every task's similarity, and the
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
        window: Records whose mean is the smoothed conflict.
        min_rise: Least rise of the smoothed conflict from its minimum to the peak.
        stop: Whether to stop; otherwise the callback only observes.
        batch_size: Segments of a task's fixed batch; by default the loader's.
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
        super().__init__(every_n_steps, batch_size)
        self.rule = StoppingRule(min_steps, patience, window, min_rise)
        self.stop = stop
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
            steps, conflicts = self.recorded()
            if self.stop and should_stop(steps, conflicts, self.rule):
                self.stopped_at = trainer.global_step
                trainer.should_stop = True
            self._draw(trainer)

    def recorded(self) -> tuple[list[int], list[float]]:
        """Return steps and conflicts of all records."""
        return [r["step"] for r in self.history], [r["mean"] for r in self.history]

    def deciding_settings(self) -> dict[str, Any]:
        """Return the settings of the stop, or nothing where the callback only observes."""
        if not self.stop:
            return {}
        measured = {"every_n_steps": self.every_n_steps, "batch_size": self.batch_size}
        return {**measured, **asdict(self.rule)}

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

    def record(self, trainer: pl.Trainer, stage: Stage, data: M3DTDataModule) -> dict[str, Any]:
        """Measure, and keep the weights if the smoothed conflict is the largest so far."""
        record = _summary(self._measure(trainer, stage, data))
        steps, conflicts = self.recorded()
        steps, conflicts = [*steps, trainer.global_step], [*conflicts, record["mean"]]
        record["smoothed"] = smooth(conflicts, self.rule.window)[-1]
        if find_peak(steps, conflicts, self.rule) == len(steps) - 1:
            weights = {n: p.detach().cpu().clone() for n, p in stage.trainable().items()}
            self._peak = (trainer.global_step, weights)
        return record

    def show(self, trainer: pl.Trainer, data: M3DTDataModule) -> None:
        """Log every measure, and each task's similarity as an image."""
        if trainer.logger is not None:
            trainer.logger.log_metrics(_scalars(self.history[-1]), step=trainer.global_step)
            _log_heat_map(trainer, self.history, [t.spec.name for t in data.store.tasks])

    def _draw(self, trainer: pl.Trainer) -> None:
        """Log the curve with its peak; the last picture shows where training stopped."""
        if isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero:
            peak = self._peak[0] if self._peak else None
            figure = conflict_curve(self.history, peak, self.stopped_at)
            step = self.history[-1]["step"]
            trainer.logger.experiment.add_figure("conflict/curve", figure, global_step=step)

    def _measure(self, trainer: pl.Trainer, stage: Stage, data: M3DTDataModule) -> ConflictTable:
        with probe_gradients(stage, data, batch_size=self.batch_size) as gradient:
            return measure(
                stage.trainable(),
                lambda task: gradient([task], 0),
                len(data.store.tasks),
                gradient_memory(stage.device, data),
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
