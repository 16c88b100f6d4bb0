"""Show which experts the routers choose for which task."""

import math
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from m3dt.data import Batch, M3DTDataModule
from m3dt.models.plain import token_mask
from m3dt.models.routing import watched_gates
from m3dt.plots import heat_map
from m3dt.stages import Stage, evaluation_mode

from .recorder import Recorder


class RouterUsageCallback(Recorder):
    """Logs the routers' mean gate weights per task and expert.

    They are measured on one fixed batch per task, over real tokens and all blocks: before training,
    every `every_n_steps` optimiser steps, and at the end.

    Logged: an image `router/usage`, `router/entropy` (mean over tokens, divided by its maximum
    log E) and `router/load_max` (largest share of one expert over all tasks; 1/E is even).

    Example, in a configuration::

        callbacks:
          router_usage:
            class: m3dt.callbacks.RouterUsageCallback
            stages: [stage3]
            every_n_steps: 500

    Args:
        every_n_steps: Optimiser steps between records.
        batch_size: Segments of a task's fixed batch; by default the loader's.
    """

    on_every_rank = False
    _own: Sequence[int | None] = ()  # the expert of each task's group

    def is_due(self, trainer: pl.Trainer) -> bool:
        """Tell whether a record belongs to the current step; one belongs to the last."""
        return super().is_due(trainer) or trainer.global_step == trainer.max_steps

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Another callback stopped the training.
        if self.history and trainer.global_step > self.history[-1]["step"]:
            self._take(trainer, pl_module)

    def metrics(self) -> dict[str, Any]:
        """Return the last record, for the registry."""
        if not self.history:
            return {}
        last = self.history[-1]
        return {"router_usage": last["usage"], "router_entropy": last["entropy"]}

    def scalars(self) -> dict[str, float]:
        """Return the entropy and the largest load."""
        newest = self.history[-1]
        load = torch.tensor(newest["usage"]).mean(dim=0).max().item()
        return {"router/entropy": newest["entropy"], "router/load_max": load}

    def show(self, trainer: pl.Trainer, data: M3DTDataModule) -> None:
        """Draw the table."""
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        step, usage = trainer.global_step, torch.tensor(self.history[-1]["usage"])
        figure = heat_map(
            usage.numpy(),
            rows=[task.spec.name for task in data.store.tasks],
            columns=[str(e) for e in range(usage.shape[1])],
            title=f"mean gate weight, step {step}",
            x_label="expert; framed: of the task's group",
            even=1 / usage.shape[1],
            outlined=self._own,
        )
        trainer.logger.experiment.add_figure("router/usage", figure, global_step=step)

    @torch.no_grad()
    def record(
        self, trainer: pl.Trainer, stage: Stage, data: M3DTDataModule
    ) -> dict[str, Any] | None:
        """Measure gate weights and entropy, on the first rank."""
        if not trainer.is_global_zero:
            return None
        self._own = stage.own_experts
        rows: list[Tensor] = []
        with evaluation_mode(stage):
            for task in range(len(data.store.tasks)):
                gates = gate_weights(stage, data.probe_batch(task, batch_size=self.batch_size))
                entropy = -(gates * gates.clamp(min=1e-12).log()).sum(dim=-1, keepdim=True)
                rows.append(torch.cat((gates, entropy), dim=1).float().mean(dim=0))
        usage, entropies = torch.stack(rows).cpu().tensor_split((-1,), dim=1)
        highest = math.log(usage.shape[1]) or 1e-12
        return {"usage": usage.tolist(), "entropy": float(entropies.mean()) / highest}


def gate_weights(stage: Stage, batch: Batch) -> Tensor:
    """Return the gate weights of all blocks at a batch's real tokens, (tokens, E)."""
    batch = stage.transfer_batch_to_device(batch, stage.device, 0)
    prompt = batch.row_prompts()
    with watched_gates(stage.model) as seen:
        stage.model(batch.segment, prompt)  # the plain model routes every token
    masks = (token_mask(prompt), token_mask(batch.segment))
    real = torch.cat(masks, dim=1)  # (B, L)
    return torch.cat([gates[real] for gates in seen])
