"""What all stages share: which parts train, the masked loss, the optimiser step.

Letters: B batch, T timesteps, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from m3dt.config import ComputeConfig, StageConfig
from m3dt.data.batch import Batch
from m3dt.models import PromptDT
from m3dt.stages.bad_steps import BadSteps, too_many_bad_steps
from m3dt.stages.optimizer import make_optimizer, take_configured_rates
from m3dt.stages.seeds import derive_seed


class Stage(pl.LightningModule):
    """One training stage.

    Frozen parts are in evaluation mode, without dropout, and absent from checkpoints. Dropout is
    seeded anew at each step by (seed, stage, step, rank): a resumed run needs no saved generator,
    and callbacks that draw random numbers change nothing.

    Args:
        model: The model; frozen parts hold their final weights already.
        config: The stage's optimiser.
        seed: Seed of the experiment.
        trained: The modules that train; everything else is frozen.
        frozen_dropout: Whether frozen parts drop units all the same, as in the authors' code.
    """

    number: int  # of the stage, 1 to 3; 0 for baselines
    num_losses = 1  # losses that are summed up: one per expert in stage 2

    def __init__(
        self,
        model: PromptDT,
        config: StageConfig,
        seed: int,
        trained: Iterable[nn.Module],
        frozen_dropout: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.seed = seed
        self.trained_modules = tuple(trained)
        self.frozen_dropout = frozen_dropout
        self._forward: Callable[[PromptDT, Batch], Tensor] = plain_predictions
        self.strict_loading = False  # checkpoints hold the trainable weights alone
        self.bad_steps = BadSteps()
        self.batch: Batch | None = None  # of the running step, for messages
        self._loss = torch.zeros(())  # of the running step
        model.requires_grad_(False)
        for module in self.trained_modules:
            module.requires_grad_(True)
        for module in model.unused_modules():
            module.requires_grad_(False)
        self.train()  # Lightning does not call it

    @property
    def title(self) -> str:
        """The stage's name in messages."""
        return f"stage {self.number}" if self.number else "training"

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the parameters that this stage trains, by their names in the model."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def train(self, mode: bool = True) -> Stage:
        """Set the mode of the trained modules; frozen ones stay in evaluation mode."""
        super().train(mode and self.frozen_dropout)
        self.training = mode
        for module in self.trained_modules if mode else ():
            module.train(True)
        return self

    def set_compute(self, compute: ComputeConfig) -> None:
        """Choose between the plain model and its shortcuts."""
        self._forward = plain_predictions
        if compute.shortcuts == "on":
            from m3dt.models import fast  # imported here: stages train without it, too

            self._forward = partial(fast.predict, compute=compute)

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch: the mean over its tasks, summed over experts in stage 2."""
        return row_losses(self.predictions(batch), batch).sum()

    def predictions(self, batch: Batch) -> Tensor:
        """Return predicted actions, (B, T, A)."""
        return self._forward(self.model, batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self._loss = loss.detach()
        self.log("train/loss", loss.detach() / self.num_losses, sync_dist=True)
        return loss

    def clip(self, parameters: list[nn.Parameter]) -> Tensor:
        """Clip the gradients by their global norm and return the norm before."""
        return nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        # Fused AdamW would unscale float16 gradients itself, after they were clipped.
        optimizer, scheduler = make_optimizer(
            self.trainable().values(), self.config, fused=not self._float16
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "learning_rate"},
        }

    def on_train_start(self) -> None:
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        take_configured_rates(scheduler, self.config, self.trainer.global_step)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.batch = batch
        step, rank = self.trainer.global_step, self.global_rank
        torch.manual_seed(derive_seed(self.seed, self.number, step, rank))

    @property
    def _float16(self) -> bool:
        return str(self.trainer.precision) == "16-mixed"

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        norm = self.clip(list(self.trainable().values()))
        if self.bad_steps.is_good(self._loss, norm, self._float16):
            self.log("train/gradient_norm", norm)
        else:
            self._skip_step()

    def _skip_step(self) -> None:
        """Leave the weights as they are: AdamW skips parameters without a gradient."""
        for parameter in self.trainable().values():
            parameter.grad = None
        self.bad_steps.count += 1
        self.log("train/bad_steps", float(self.bad_steps.count))
        if self.bad_steps.count > self.config.max_bad_steps:
            assert self.batch is not None
            with torch.no_grad():
                losses = row_losses(self.predictions(self.batch), self.batch)
            raise too_many_bad_steps(self, self.batch, losses)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = {f"model.{name}" for name in self.trainable()}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in kept}
        checkpoint["bad_steps"] = self.bad_steps.count

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.bad_steps.count = checkpoint.get("bad_steps", 0)


def plain_predictions(model: PromptDT, batch: Batch) -> Tensor:
    """Predict the action of every timestep with the plain model, (B, T, A)."""
    return model(batch.segment, batch.row_prompts(), batch.task_index)


def row_losses(predictions: Tensor, batch: Batch) -> Tensor:
    """Return each row's weighted squared error over real steps and real action dims, (B,).

    A row's weight is 1 / (real entries of its task in the batch x number of tasks), so that the sum
    over rows is a mean over tasks (paper section 3). In stage 2 this holds for each expert's part.
    """
    segment = batch.segment
    real = segment.attention_mask[..., None] * batch.action_mask[:, None]  # (B, T, A)
    squared = (predictions.float() - segment.actions).square() * real
    return squared.sum(dim=(1, 2)) * batch.loss_weight
