"""Run the optimiser steps of a chunk: nothing in a step waits for the device.

Losses and gradient norms stay on the device until the chunk ends. A step whose gradient is not
finite changes nothing, by a flag that the optimiser reads on the device.

Letters: B batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import AdamW

from m3dt.data import Batch, Chunk, Draws
from m3dt.engine.choices import Choices
from m3dt.engine.counters import count_steps
from m3dt.engine.graph import Graphed
from m3dt.engine.hooks import callbacks_of
from m3dt.engine.precision import full_precision
from m3dt.engine.trainable import Trainable


class Taken(NamedTuple):
    """What is known of the steps of a chunk when it ends."""

    losses: list[float]  # mean over the processes
    norms: list[float]  # of the gradients before clipping
    seconds: float  # mean over the processes
    row_losses: Tensor  # (n, B) of this process, on the device


class Steps:
    """Takes the optimiser steps of a stage.

    Args:
        stage: The stage.
        trainer: Gives device, precision and processes.
        optimizer: Fused AdamW over the stage's trainable parameters; capturable for graphs.
        gather: Makes a batch of draws on the device.
        choices: Whether to record a step as a CUDA graph, and whether to compile.
    """

    def __init__(
        self,
        stage: Trainable,
        trainer: pl.Trainer,
        optimizer: AdamW,
        gather: Callable[[Draws], Batch],
        choices: Choices,
    ) -> None:
        self.stage = stage
        self.trainer = trainer
        self.optimizer = optimizer
        self.gather = gather
        self.device = trainer.strategy.root_device
        self.parameters = list(stage.trainable().values())
        self.scaler = getattr(trainer.precision_plugin, "scaler", None)  # of float16
        self._watchers = [] if choices.graph else callbacks_of(trainer)
        self._graphed = Graphed(self.step) if choices.graph else None
        self._row_losses = stage.step_losses
        self._compiled = choices.compile
        if self._compiled:
            torch.compiler.reset()  # torch compiles a function for a few models, then no more
            self._row_losses = torch.compile(stage.step_losses, dynamic=False)
        self._held = torch.zeros((), device=self.device)  # 1: no step changes anything

    def run(self, chunk: Chunk) -> Taken:
        """Take the steps of a chunk and count them."""
        started, records = time.monotonic(), []
        if self._compiled:  # a compiled pass would do it in each step
            self.stage.prepare_forward_pass()
        for number in range(chunk.num_steps):
            records.append(self._take(chunk.inputs(number), chunk.first + number))
        count_steps(self.trainer, chunk.num_steps)
        rows, norms = (torch.stack(tensors) for tensors in zip(*records, strict=True))
        losses = rows.sum(dim=1) / self.stage.num_losses
        measured = torch.stack((losses, norms.to(losses.dtype))).cpu()  # waits for the device
        mean = torch.cat((measured[0], torch.tensor([time.monotonic() - started])))
        if self.trainer.world_size > 1:
            reduced = self.trainer.strategy.reduce(mean.to(self.device), reduce_op="mean")
            assert isinstance(reduced, Tensor)
            mean = reduced.cpu()
        *shared, seconds = mean.tolist()
        return Taken(shared, measured[1].tolist(), seconds, rows)

    def _take(self, inputs: Draws | Batch, number: int) -> tuple[Tensor, Tensor]:
        """Take the step of a number, as a graph if that was chosen."""
        value = self.stage.learning_rate(number)
        on_cuda = self.device.type == "cuda"  # there it is float32, with a graph and without
        rate = torch.full((), value, device=self.device) if on_cuda else value
        if self._graphed is not None and not self._graphed.recorded:
            self._held.fill_(1.0)  # recording runs the step, which must change nothing
            self._graphed.record(inputs, rate)
            self._held.zero_()
        self._seed(self.stage.seed_of(number))
        if self._graphed is None:
            return self.step(inputs, rate)
        rows, norm = self._graphed(inputs, rate)
        return rows.clone(), norm.clone()

    def _seed(self, seed: int) -> None:
        """Seed the device's default generator; `torch.manual_seed` seeds all, which takes 1 ms."""
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def step(self, inputs: Draws | Batch, rate: float | Tensor) -> tuple[Tensor, Tensor]:
        """Take one step.

        Args:
            inputs: The batch, or its draws.
            rate: The learning rate; a tensor on a CUDA device.

        Returns:
            What each row adds to the loss, (B,), and the norm of the gradient before clipping.
        """
        rows, norm = self.gradient(inputs)
        for callback in self._watchers:
            module = self.trainer.lightning_module
            callback.on_before_optimizer_step(self.trainer, module, self.optimizer)
        self._update(norm, rate)
        self.stage.end_step()
        for parameter in self.parameters:
            parameter.grad = None
        return rows, norm

    def gradient(self, inputs: Draws | Batch) -> tuple[Tensor, Tensor]:
        """Compute and clip the gradient of a step; arguments and results are those of `step`."""
        batch = self.gather(inputs) if isinstance(inputs, Draws) else inputs
        self.stage.begin_step(batch)
        rows = self._row_losses(batch)
        loss = rows.sum()
        with full_precision(self.device):
            if self._graphed is None:
                self.stage.manual_backward(loss)  # with Lightning's hooks, scaler and processes
            else:
                loss.backward()
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            norm = self.stage.clip(self.parameters)
        return rows.detach(), norm.detach()

    def _update(self, norm: Tensor, rate: float | Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.scaler is not None:  # it finds what is not finite itself
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        # Fused AdamW leaves weights, moments and step counts as they are where this is 1.
        skip = torch.maximum((~norm.isfinite()).float(), self._held)
        vars(self.optimizer).update(grad_scale=None, found_inf=skip)
        self.optimizer.step()
