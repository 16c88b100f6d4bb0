"""Measure how much the tasks' gradients disagree, and stop stage 1 at the peak (section 4.1)."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from statistics import fmean, stdev
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils._pytree import tree_map

from m3dt.data import M3DTDataModule
from m3dt.plots import conflict_curve, heat_map
from m3dt.stages import Stage
from m3dt.stages.gradients import gradient_memory, probe_gradients
from m3dt.stages.stopping import Judgement, StoppingRule, judge, smooth
from m3dt.utils.errors import UserError

from .conflict_measures import ConflictTable, measure
from .recorder import Recorder


class GradientConflictCallback(Recorder):
    """Tracks gradient conflict between tasks, and stops when it has peaked.

    Conflict is 1 - mean_i cos(g_i, G), where G is the mean of the tasks' gradients g_i (appendix
    A.4). It is measured on several probes and averaged: each is a fixed batch per task, without
    dropout, in the precision of the weights. The probes give its standard error. Noise makes
    gradients look less alike, and more so in small batches: compare conflicts of one `batch_size`.
    Independent random gradients have a similarity of 1/sqrt(N), which is logged too; so are the
    leave-one-out and the pairwise cosine, which have no such floor.

    `m3dt.stages.stopping` decides when to stop. The registry then keeps the weights of the peak, or
    those of the end of the cooldown where `stage1.decay=cooldown`. Training is bit-identical with
    and without this callback until it stops.

    Logged: `conflict/mean`, `conflict/error` (its standard error), `conflict/smoothed`,
    `conflict/attention`, `conflict/mlp`, `conflict/block<i>` (all 1 - similarity),
    `similarity/to_mean`, `similarity/leave_one_out`, `similarity/pairwise`,
    `similarity/independent`. As images: every task's similarity, and the curve with its peak and
    the step of the stop.

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
        significance: Largest probability of the rise to the peak among records that only fluctuate.
        stop: Whether to stop; otherwise the callback only observes.
        batch_size: Segments of a task's fixed batch; by default the loader's.
        probes: Number of fixed batches per task.
    """

    def __init__(
        self,
        every_n_steps: int = 10_000,
        min_steps: int = 0,
        patience: int = 5,
        window: int = 5,
        significance: float = 0.05,
        stop: bool = True,
        batch_size: int | None = None,
        probes: int = 4,
    ) -> None:
        super().__init__(every_n_steps, batch_size)
        if probes < 1:
            raise ValueError(f"probes={probes} must be 1 or more")
        self.probes = probes
        self.rule = StoppingRule(min_steps, patience, window, significance)
        self.stop = stop
        self.stopped_at: int | None = None
        self._considered = 0  # records up to the stop, or to a cooldown
        self._peak: tuple[int, dict[str, Tensor]] | None = None  # of the weights to keep

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        known = len(self.history)
        super().on_train_batch_end(trainer, pl_module)
        if len(self.history) > known:
            assert isinstance(pl_module, Stage)
            if self.stop and not pl_module.ending:
                self._considered = len(self.history)
                if self._judgement().stops:
                    self.stopped_at = trainer.global_step
                    pl_module.stop()
            if self._draws(pl_module):
                self._draw(trainer, pl_module.data)

    def outcome(self) -> str:
        """Say whether it stopped the training, and why."""
        if not self._considered:
            return ""
        reason = self._judgement().reason()
        if self.stopped_at is None:
            return f"conflict has not peaked: {reason}."
        return f"conflict peaked, stopped at step {self.stopped_at:,}: {reason}."

    def _judgement(self) -> Judgement:
        return judge(*_curves(self.history[: self._considered]), self.rule)

    def deciding_settings(self) -> dict[str, Any]:
        """Return the settings of the stop, or nothing where the callback only observes."""
        if not self.stop:
            return {}
        names = ("every_n_steps", "batch_size", "probes")
        return {**{name: getattr(self, name) for name in names}, **asdict(self.rule)}

    def selected_weights(self) -> tuple[int, dict[str, Tensor]] | None:
        """Return step and weights of the peak if training ended there, else None."""
        return self._peak if self.stopped_at is not None else None

    @property
    def peak(self) -> int | None:
        """The step of the peak that stopped the training."""
        return self._judgement().peak if self.stopped_at is not None else None

    def metrics(self) -> dict[str, Any]:
        """Return the whole record, for the registry."""
        stop = {"peak": self.peak, "stopped_at": self.stopped_at, "outcome": self.outcome()}
        return {"conflict": {**stop, "history": self.history}}

    def state_dict(self) -> dict[str, Any]:
        own = {"stopped_at": self.stopped_at, "peak": self._peak, "considered": self._considered}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "considered" not in state_dict:
            raise UserError(
                "the checkpoint has conflict records of an earlier m3dt, which had no standard "
                "error. Delete the folder of checkpoints to start the stage over."
            )
        super().load_state_dict(state_dict)
        self.stopped_at = state_dict["stopped_at"]
        self._peak = state_dict["peak"]
        self._considered = state_dict["considered"]

    def record(self, trainer: pl.Trainer, stage: Stage, data: M3DTDataModule) -> dict[str, Any]:
        """Measure, and keep the weights if the smoothed conflict is the largest so far."""
        record = _mean_record([_summary(table) for table in self._measure(trainer, stage, data)])
        history = [*self.history, {"step": trainer.global_step, **record}]
        record["smoothed"] = smooth([r["mean"] for r in history], self.rule.window)[-1]
        highest = judge(*_curves(history), self.rule).peak == trainer.global_step
        if stage.cools:
            self._peak = None
        elif highest and self.stop:
            weights = {n: p.detach().cpu().clone() for n, p in stage.trainable().items()}
            self._peak = (trainer.global_step, weights)
        return record

    def scalars(self) -> dict[str, float]:
        """Return every measure."""
        return _scalars(self.history[-1])

    def _draws(self, stage: Stage) -> bool:
        """Tell whether the newest record gets pictures: number 2, 4, 8, ..., the stop, the last."""
        step, count = self.history[-1]["step"], len(self.history)
        end = stage.config.max_steps if stage.last_step is None else stage.last_step
        last = step + self.every_n_steps > end
        return last or step == self.stopped_at or count & (count - 1) == 0

    def _draw(self, trainer: pl.Trainer, data: M3DTDataModule) -> None:
        """Log the curve, from the stop on with its peak, and each task's similarity."""
        logger = trainer.logger
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            curve = conflict_curve(self.history, self.peak, self.stopped_at, self.outcome())
            table = _similarities(self.history, [t.spec.name for t in data.store.tasks])
            for name, figure in (("curve", curve), ("per_task", table)):
                step = self.history[-1]["step"]
                logger.experiment.add_figure(f"conflict/{name}", figure, global_step=step)

    def _measure(
        self, trainer: pl.Trainer, stage: Stage, data: M3DTDataModule
    ) -> list[ConflictTable]:
        """Return the table of each probe."""
        memory = gradient_memory(stage.device, data)
        ranks = trainer.global_rank, trainer.world_size
        with probe_gradients(stage, data, batch_size=self.batch_size) as gradient:

            def of_probe(probe: int) -> ConflictTable:
                def of_task(task: int) -> Tensor:
                    return gradient([task], probe)

                return measure(stage.trainable(), of_task, len(data.store.tasks), memory, *ranks)

            return [of_probe(probe) for probe in range(self.probes)]


def _curves(history: Sequence[dict[str, Any]]) -> tuple[list[int], list[float]]:
    """Return the steps and the conflicts of records."""
    return [record["step"] for record in history], [record["mean"] for record in history]


def _mean_record(probes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of the probes' records, with the standard error of the conflict."""
    conflicts = [probe["mean"] for probe in probes]
    mean = tree_map(lambda *values: fmean(values), *probes)
    error = stdev(conflicts) / math.sqrt(len(conflicts)) if len(conflicts) > 1 else 0.0
    return {**mean, "error": error}


def _summary(table: ConflictTable) -> dict[str, Any]:
    """Return what is logged of one probe: every measure, and each task's similarity."""
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
        "conflict/error": record["error"],
        "conflict/smoothed": record["smoothed"],
        **{f"conflict/{part}": value for part, value in record["parts"].items()},
        "similarity/to_mean": 1 - record["mean"],
        "similarity/leave_one_out": record["leave_one_out"],
        "similarity/pairwise": record["pairwise"],
        "similarity/independent": record["independent"],
    }


def _similarities(history: Sequence[dict[str, Any]], tasks: list[str]) -> Figure:
    """Return a picture of each task's similarity over training."""
    return heat_map(
        torch.tensor([record["per_task"] for record in history]).T.numpy(),
        rows=tasks,
        columns=[str(record["step"]) for record in history],
        title="similarity of each task's gradient to the mean",
        x_label="step",
    )
