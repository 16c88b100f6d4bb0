"""What all stages share: which parts train, the masked loss, the optimiser step.

Letters: B batch, T timesteps, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from m3dt.config import ComputeConfig, StageConfig
from m3dt.data import Batch, Chunk, Draws, M3DTDataModule, ValidationRound
from m3dt.engine.choices import of_unknown_code
from m3dt.engine.engine import Engine
from m3dt.models import PromptDT, is_built_in
from m3dt.stages.learning_rate import cooldown_end, latest_cooldown, learning_rate_factor
from m3dt.stages.seeds import derive_seed
from m3dt.utils.errors import UserError


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
    own_experts: Sequence[int | None] = ()  # the expert of each task's group, where there is one
    trains_actions = True  # whether the loss is of predicted actions

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
        self.stopped_at: int | None = None  # the step of `stop`
        self.forward_pass: Callable[[PromptDT, Batch], Tensor] = plain_predictions
        self.prepare_forward_pass: Callable[[], None] = nothing
        self.engine = Engine(self)
        self.automatic_optimization = False  # the engine takes the optimiser steps
        self.validation_loss = MeanMetric(nan_strategy="disable")
        self.strict_loading = False  # checkpoints hold the trainable weights alone
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

    @property
    def data(self) -> M3DTDataModule:
        """The batches that it trains on."""
        return self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it

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
        """Choose between the plain model and its shortcuts, and how steps are run.

        A model of the user's class runs by its own forward pass, whatever the settings say.
        """
        known = is_built_in(self.model)
        if not known or self.config.class_path:
            compute = of_unknown_code(compute)
        self.engine.compute = compute
        self.forward_pass, self.prepare_forward_pass = plain_predictions, nothing
        if compute.shortcuts == "on" and known:
            from m3dt.models import fast  # imported here: stages train without it, too

            self.forward_pass = partial(fast.predict, compute=compute)
            self.prepare_forward_pass = partial(fast.prepare, self.model, compute)

    def predictions(self, batch: Batch) -> Tensor:
        """Return predicted actions, (B, T, A)."""
        return self.forward_pass(self.model, batch)

    def row_losses(self, batch: Batch) -> Tensor:
        """Return what each row adds to the loss, (B,), in the precision of the weights."""
        batch = batch.cast(next(self.model.parameters()).dtype)
        return row_losses(self.predictions(batch), batch)

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch: the mean over its tasks, summed over experts in stage 2."""
        return self.row_losses(batch).sum()

    def step_losses(self, batch: Batch) -> Tensor:
        """Return `row_losses` as optimiser steps and validation take them, (B,): here the same."""
        return self.row_losses(batch)

    def training_step(self, chunk: Chunk, batch_idx: int) -> dict[str, Tensor]:
        """Take the optimiser steps of a chunk (`m3dt.engine`)."""
        taken = self.engine.take(chunk.until(self.last_step))  # it may be older than a stop
        self._end_if_due()
        return taken

    def validation_step(self, held_out: ValidationRound, batch_idx: int) -> None:
        """Log the mean loss over tasks on their held-out trajectories, `val/loss`."""
        inputs = held_out.chunk.inputs(0)
        batch = self.data.gather(inputs) if isinstance(inputs, Draws) else inputs
        losses = self.step_losses(batch).unflatten(0, (len(held_out.counted), -1)).sum(dim=1)
        self.validation_loss.update(losses[held_out.counted])
        self.log("val/loss", self.validation_loss, on_step=False, on_epoch=True)

    def begin_step(self, batch: Batch) -> None:
        """Do what precedes the forward pass of each optimiser step: here nothing."""

    def clip(self, parameters: list[nn.Parameter]) -> Tensor:
        """Clip the gradients by their global norm and return the norm before."""
        return nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)

    def end_step(self) -> None:
        """Do what follows each optimiser step: here nothing."""

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of an optimiser step."""
        begin = self._cooldown_begin if self.cools else None
        return self.config.learning_rate * learning_rate_factor(self.config, step, begin)

    @property
    def cools(self) -> bool:
        """Whether the learning rate falls at the end of the training, whenever that is."""
        return self.config.decay == "cooldown"

    @property
    def last_step(self) -> int | None:
        """The number of steps after which a stopped training ends; None without a stop."""
        if self.stopped_at is None or not self.cools:
            return self.stopped_at
        return cooldown_end(self.config, self._cooldown_begin)

    @property
    def _cooldown_begin(self) -> int:
        latest = latest_cooldown(self.config)
        return latest if self.stopped_at is None else min(self.stopped_at, latest)

    @property
    def ending(self) -> bool:
        """Whether training was stopped, or its cooldown has begun."""
        cooling = self.cools and self.trainer.global_step >= self._cooldown_begin
        return cooling or self.stopped_at is not None

    def stop(self) -> None:
        """End the training at the current step, or with a cooldown that begins there."""
        self.stopped_at = self.trainer.global_step
        self._end_if_due()

    def _end_if_due(self) -> None:
        if self.last_step is not None and self.trainer.global_step >= self.last_step:
            self.trainer.should_stop = True

    def seed_of(self, step: int) -> int:
        """Return the seed of an optimiser step's dropout."""
        return derive_seed(self.seed, self.number, step, self.global_rank)

    def next_step(self, step: int) -> int | None:
        """Return the next step after `step` that must begin a chunk, or None."""
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.trainable().values(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            betas=(0.9, 0.999),
            fused=True,
        )

    def on_fit_start(self) -> None:
        if not self.engine.prepared_for(self.trainer):
            self.engine.prepare(self.trainer, self.data)

    def on_train_start(self) -> None:
        self.engine.start()
        self._end_if_due()  # resumed from the last checkpoint

    def on_train_end(self) -> None:
        self.engine.finish()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = {f"model.{name}" for name in self.trainable()}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in kept}
        checkpoint["bad_steps"] = vars(self.engine.bad_steps)
        checkpoint["stopped_at"] = self.stopped_at

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: object, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a stage's checkpoint holds what trains, without the model around it.

        Raises:
            UserError: Always; it says what to use instead.
        """
        raise UserError(
            f"{checkpoint_path}: checkpoints of m3dt hold the weights that train, to resume from. "
            "m3dt.load(run) loads a trained model of a run; the command that trained, such as "
            "`m3dt stage1`, goes on from the newest checkpoint."
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        vars(self.engine.bad_steps).update(checkpoint.get("bad_steps", {}))
        self.stopped_at = checkpoint.get("stopped_at")


def nothing() -> None:
    """Prepare nothing: the plain model needs no preparation."""


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
