"""HarmoDT: Prompt-DT with a mask over its parameters for each task (Hu et al. 2024).

Deviation from the published code: parameters are regrown by their gradient before masking, as the
paper means it. After masking, the gradient is zero wherever something could regrow.

Letters: N tasks; `num_params` counts the parameters.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from m3dt.config import HarmoConfig, StageConfig
from m3dt.data import Batch, Chunk, M3DTDataModule
from m3dt.data.draws import rows_by_task
from m3dt.engine.chunks import next_multiple
from m3dt.models import PromptDT
from m3dt.models.variants.task_masks import TaskMasks, exchange, is_exempt, maskable
from m3dt.stages.baseline import BaselineStage
from m3dt.stages.gradients import (
    GradientRows,
    ProbeGradient,
    gradient_memory,
    probe_gradients,
)

_MASKS = "task_masks"  # in checkpoints


class HarmoStage(BaselineStage):
    """Trains one model with a mask per task.

    A step computes each row with the model that its task's mask leaves, and adds up the gradients,
    of each task where its mask is one. It changes nothing where the masks of all its tasks are
    zero. Tasks share Adam's moments. Every `update_every` steps, each task exchanges a few
    parameters.

    Args:
        model: Prompt-DT.
        config: The optimiser.
        seed: Seed of the experiment.
        harmo: Sparsity and revisions of the masks.
        num_tasks: Number of tasks, N.
    """

    def __init__(
        self, model: PromptDT, config: StageConfig, seed: int, harmo: HarmoConfig, num_tasks: int
    ) -> None:
        super().__init__(model, config, seed)
        self.harmo = harmo
        self.num_tasks = num_tasks
        self.masks = TaskMasks.draw(model, num_tasks, harmo.sparsity, seed)
        self.num_processes = 1
        self._used: dict[str, Tensor] = {}  # by some task of the running step
        self._before: dict[str, Tensor] = {}  # the weights before it

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.num_processes = self.trainer.world_size
        self.masks.packed = self.masks.packed.to(self.device)

    def next_step(self, step: int) -> int | None:
        return next_multiple(step, self.harmo.update_every)

    def on_train_batch_start(self, chunk: Chunk, batch_idx: int) -> None:
        step = chunk.first
        if step and step % self.harmo.update_every == 0:
            self.revise(self.data, step // self.harmo.update_every, self.exchanged(step))
            if self.trainer.world_size > 1:  # ranks differ by rounding
                first = self.trainer.strategy.broadcast(self.masks.packed.cpu())
                self.masks.packed = first.to(self.device)

    def forward(self, batch: Batch) -> Tensor:
        """Return `row_losses`; `step_losses` calls it with other parameters."""
        return self.row_losses(batch)

    def step_losses(self, batch: Batch) -> Tensor:
        """Return what each row adds to the loss of its task's masked model, (B,).

        One task's gradient is clipped whole and then masked, as in the original. Of several tasks,
        each gradient is masked before they add up.
        """
        tasks = batch.tasks.unbind()
        sizes = rows_by_task(batch.num_rows, len(tasks), self.global_rank, self.num_processes)
        losses = []
        for task, size, part in zip(tasks, sizes, batch.by_task(sizes), strict=True):
            if size:
                masked = self.masks.masked(self.model, task, whole_gradient=len(tasks) == 1)
                named = {f"model.{name}": parameter for name, parameter in masked.items()}
                losses.append(functional_call(self, named, (part,)))
        return torch.cat(losses)

    def begin_step(self, batch: Batch) -> None:
        """Keep the weights, and what the tasks of the batch may change of them."""
        self._used = self.masks.union(batch.tasks)
        self._before = {name: p.detach().clone() for name, p in self.trainable().items()}

    def clip(self, parameters: list[nn.Parameter]) -> Tensor:
        """Clip the gradient, then zero what all masks leave out: only one task has some there."""
        norm = super().clip(parameters)
        for name, parameter in self.trainable().items():
            if parameter.grad is not None and not is_exempt(name):
                parameter.grad.mul_(self._used[name])
        return norm

    @torch.no_grad()
    def end_step(self) -> None:
        """Put the old weights back wherever all masks are zero."""
        for name, parameter in self.trainable().items():
            parameter.copy_(torch.where(self._used[name], parameter, self._before[name]))
        self._used, self._before = {}, {}

    def exchanged(self, step: int) -> int:
        """Return how many parameters a task exchanges at a step: none, more, none (cosine)."""
        harmo, steps = self.harmo, self.config.max_steps
        if not harmo.exchanged_share:
            return int(harmo.max_changed / 2 * _turn(step, steps))
        every = harmo.update_every
        total = sum(_turn(update, steps) for update in range(every, steps, every))
        return round(harmo.exchanged_share * self.masks.size * _turn(step, steps) / total)

    def revise(self, data: M3DTDataModule, index: int, count: int) -> None:
        """Let every task exchange `count` parameters, chosen on its probe batch `index`."""
        if count == 0:
            return
        mean = torch.zeros(self.masks.size, device=self.device)
        memory = gradient_memory(self.device, data)
        with probe_gradients(self, data) as gradient:
            gradients = GradientRows(
                lambda task: self.masked_gradient(gradient, task, index),
                self.num_tasks,
                self.trainable().values(),
                memory,
            )
            for _, rows in gradients:
                for row in rows:
                    mean += row / self.num_tasks
            for tasks, rows in gradients:
                for task, row in zip(range(tasks.start, tasks.stop), rows, strict=True):
                    mask, importance = self.masks.flat(task), self.importance(row)
                    revised = exchange(mask, row * mean, importance, self.harmo.gamma, count)
                    self.masks.put(task, revised)

    def importance(self, gradient: Tensor) -> Tensor:
        """Return what pruning each parameter would cost, (num_params,)."""
        if self.harmo.importance == "gradient":
            return gradient.square()
        return torch.cat([p.detach().flatten() for p in self.trainable().values()]).abs()

    def masked_gradient(self, gradient: ProbeGradient, task: int, index: int) -> Tensor:
        """Return the gradient of a task's masked model over all parameters, (num_params,)."""
        parameters = [p.detach() for p in self.trainable().values()]
        before = [p.clone() for p in parameters]
        self.masks.apply(self.model, task)
        try:
            return gradient([task], index)
        finally:
            torch._foreach_copy_(parameters, before)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[_MASKS] = self.masks.packed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.masks.packed = checkpoint[_MASKS]
        assert list(self.trainable()) == list(maskable(self.model))


def _turn(step: int, steps: int) -> float:
    """Return the weight of a step's exchange, from 0 over 2 in the middle of all steps to 0."""
    return 1 - math.cos(2 * math.pi * step / steps)
