"""Shows which experts the routers give which task."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from m3dt.data import M3DTDataModule
from m3dt.figures import heat_map
from m3dt.stages import Stage, evaluation_mode


class RouterUsageCallback(pl.Callback):
    """Logs the routers' mean gate weights per task and expert.

    Measured on one fixed batch a task, over real tokens and all blocks, before training, every
    `every_n_steps` optimiser steps and at the end.

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
        batch_size: Segments of a task's fixed batch; default the loader's.
    """

    def __init__(self, every_n_steps: int = 10_000, batch_size: int | None = None) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} must be 1 or more")
        self.every_n_steps = every_n_steps
        self.batch_size = batch_size
        self.usage: Tensor | None = None  # (N, E), the last record
        self.entropy = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._record(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._record(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._record(trainer, pl_module)

    def metrics(self) -> dict[str, Any]:
        """Return the last record, for the registry."""
        if self.usage is None:
            return {}
        return {"router_usage": self.usage.tolist(), "router_entropy": self.entropy}

    def _record(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stage, data = pl_module, trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(stage, Stage) and isinstance(data, M3DTDataModule)
        if not trainer.is_global_zero:
            return
        self._measure(stage, data)
        if not isinstance(trainer.logger, TensorBoardLogger) or self.usage is None:
            return
        step = trainer.global_step
        load = self.usage.mean(dim=0)
        scalars = {"router/entropy": self.entropy, "router/load_max": load.max().item()}
        trainer.logger.log_metrics(scalars, step=step)
        figure = heat_map(
            self.usage.numpy(),
            rows=[task.spec.name for task in data.store.tasks],
            columns=[str(e) for e in range(self.usage.shape[1])],
            title=f"mean gate weight, step {step}",
            x_label="expert",
        )
        trainer.logger.experiment.add_figure("router/usage", figure, global_step=step)

    @torch.no_grad()
    def _measure(self, stage: Stage, data: M3DTDataModule) -> None:
        seen: list[Tensor] = []
        routers = [mixture.router for mixture in stage.model.mixtures if mixture.router is not None]
        hooks = [r.register_forward_hook(lambda m, a, out: seen.append(out)) for r in routers]
        usage, entropies = [], []
        with evaluation_mode(stage):
            for task in range(len(data.store.tasks)):
                batch = data.probe_batch(task, batch_size=self.batch_size)
                batch = stage.transfer_batch_to_device(batch, stage.device, 0)
                seen.clear()
                prompt = batch.row_prompts()
                stage.model.predict(batch.segment, prompt)  # routes every token
                masks = (prompt.attention_mask, batch.segment.attention_mask)
                real = torch.cat(masks, dim=1).repeat_interleave(3, dim=1).bool()
                gates = torch.cat([g[real] for g in seen])
                usage.append(gates.mean(dim=0).float().cpu())
                entropies.append(-(gates * gates.clamp(min=1e-12).log()).sum(dim=-1).mean().item())
        for hook in hooks:
            hook.remove()
        self.usage = torch.stack(usage)
        highest = torch.tensor(float(self.usage.shape[1])).log().item()
        self.entropy = sum(entropies) / len(entropies) / max(highest, 1e-12)
