"""Measure what grouping does to the conflict between tasks inside an expert (figure 5)."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from m3dt.data import M3DTDataModule
from m3dt.models import ExpertBank
from m3dt.stages import Stage
from m3dt.stages.gradients import gradient_memory, probe_gradients

from .conflict_measures import ExpertTable, measure_experts
from .recorder import Recorder


class ExpertConflictCallback(Recorder):
    """Tracks the gradient conflict between tasks in the experts' own parameters.

    In stage 2 it measures conflict between the tasks of each expert's group and, for comparison
    with no grouping, between all tasks. Where experts train together with the router, it measures
    conflict between all tasks. A small group is similar to its mean for free (1/sqrt(N) for
    independent gradients); the leave-one-out cosine of independent gradients is 0.

    Logged: `conflict/experts_grouped`, `conflict/experts_all`, `similarity/experts_grouped`,
    `similarity/experts_all` (leave-one-out), all means over experts with two tasks or more. Big
    experts are not measured.

    Example, in a configuration::

        callbacks:
          expert_conflict:
            class: m3dt.callbacks.ExpertConflictCallback
            stages: [stage2, stage3]
            every_n_steps: 500

    Args:
        every_n_steps: Optimiser steps between records; the first is taken before training.
        batch_size: Segments of a task's fixed batch; by default the loader's.
    """

    def metrics(self) -> dict[str, Any]:
        """Return the whole record, for the registry."""
        return {"expert_conflict": {"history": self.history}} if self.history else {}

    def record(
        self, trainer: pl.Trainer, stage: Stage, data: M3DTDataModule
    ) -> dict[str, Any] | None:
        """Measure the conflict inside the experts, if they train."""
        banks = [mixture.experts for mixture in stage.model.mixtures]
        trained = all(p.requires_grad for bank in banks for p in bank.parameters())
        if not trained or not all(isinstance(bank, ExpertBank) for bank in banks):
            return None
        everything = range(len(data.store.tasks))
        routed = stage.model.mixtures[0].router is not None
        num_experts = stage.model.mixtures[0].num_experts
        tables = {"all": self._measure(stage, data, [everything] * num_experts, routed)}
        if not routed:
            groups = [stream.tasks for stream in data.streams]
            tables["grouped"] = self._measure(stage, data, groups, routed)
        return {
            name: {
                "conflict": 1 - table.to_mean(),
                "leave_one_out": table.leave_one_out(),
                "num_tasks": table.mean_tasks(),
            }
            for name, table in tables.items()
        }

    def scalars(self) -> dict[str, float]:
        """Return the means over the experts."""
        tables = {name: table for name, table in self.history[-1].items() if name != "step"}
        conflicts = {f"conflict/experts_{n}": table["conflict"] for n, table in tables.items()}
        similar = {f"similarity/experts_{n}": t["leave_one_out"] for n, t in tables.items()}
        return {**conflicts, **similar}

    def _measure(
        self,
        stage: Stage,
        data: M3DTDataModule,
        groups: Sequence[Sequence[int]],
        routed: bool,
    ) -> ExpertTable:
        parameters = [p for m in stage.model.mixtures for p in m.experts.parameters()]

        def gradient_of(tasks: Sequence[int]) -> Tensor:
            # Unrouted experts take equal parts of a batch in turn, routed ones see all of it.
            return gradient(tasks[:1] if routed else tasks, 0)

        memory = gradient_memory(stage.device, data)
        with probe_gradients(stage, data, parameters, self.batch_size) as gradient:
            return measure_experts(parameters, gradient_of, groups, memory)
