"""What all stages share: the masked loss, AdamW with warm-up, clipping, freezing, logging names.

Letters: B batch, T timesteps, A action.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from m3dt.config import FrozenStageConfig, StageConfig
from m3dt.data.batch import Batch
from m3dt.models import PromptDT
from m3dt.utils.errors import RunError

_BAD_STEPS = "bad_steps"  # in checkpoints


@runtime_checkable
class WeightSelector(Protocol):
    """A callback that decides which weights of a run are kept, instead of the last."""

    def selected_weights(self) -> tuple[int, dict[str, Tensor]] | None:
        """Return a step and the trainable weights then, or None for the last ones."""


def row_losses(predictions: Tensor, batch: Batch) -> Tensor:
    """Return each row's weighted squared error over real steps and real action dims, (B,).

    The weights make the sum over a stream's rows a mean over its real entries (paper section 3).

    Args:
        predictions: Predicted actions, (B, T, A).
        batch: The targets, masks and weights.
    """
    segment = batch.segment
    real = segment.attention_mask[..., None] * batch.action_mask[:, None]  # (B, T, A)
    squared = (predictions.float() - segment.actions).square() * real
    return squared.sum(dim=(1, 2)) * batch.loss_weight


def derive_seed(*key: int) -> int:
    """Return a 63-bit seed for a key of integers, such as (seed, stage, step, rank)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Measure without dropout, and leave every module in the mode it was found in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


class Stage(pl.LightningModule):
    """One training stage.

    A subclass says which modules train; everything else is frozen, in evaluation mode, and absent
    from checkpoints. Dropout at a step is seeded by (seed, stage, step, rank): a resumed run needs
    no saved generator, and no callback can shift it.

    Args:
        model: The model; frozen parts hold their final weights already.
        config: The stage's optimiser.
        seed: Seed of the experiment.
    """

    number: int  # of the stage, 1 to 3; 0 for baselines

    def __init__(self, model: PromptDT, config: StageConfig, seed: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.seed = seed
        self.strict_loading = False  # checkpoints hold the trainable weights alone
        self.bad_steps = 0  # whose loss or gradient was not finite
        self._batch: Batch | None = None  # of the running step, for messages
        self._loss = torch.zeros(())  # of the running step
        self._overflows = 0  # of gradients, in a row
        model.requires_grad_(False)
        for module in self.trained_modules():
            module.requires_grad_(True)
        for module in model.unused_modules():
            module.requires_grad_(False)
        self.train()  # Lightning takes the modes as it finds them

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"stage {self.number}" if self.number else "training"

    @abstractmethod
    def trained_modules(self) -> Iterable[nn.Module]:
        """Return the modules that this stage trains."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the parameters that this stage trains, by their names in the model."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def train(self, mode: bool = True) -> Stage:
        """Set the mode of the trained modules; frozen ones stay in evaluation mode.

        With `frozen_dropout` they do not.
        """
        config = self.config
        super().train(mode and isinstance(config, FrozenStageConfig) and config.frozen_dropout)
        self.training = mode
        if mode:
            for module in self.trained_modules():
                module.train(True)
        return self

    def predictions(self, batch: Batch) -> Tensor:
        """Return predicted actions, (B, T, A)."""
        return self.model(batch.segment, batch.prompt, batch.task_index, batch.prompt_rows)

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch: the mean of its streams, summed over the streams."""
        return row_losses(self.predictions(batch), batch).sum()

    def expert_numbers(self) -> Sequence[int]:
        """Return the numbers of the model's experts, which key their dropout."""
        return range(self.model.mixtures[0].num_experts if self.model.mixtures else 0)

    def on_train_start(self) -> None:
        """Take the configuration's rates, where a checkpoint brought those of another one."""
        config, scheduler = self.config, self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        if scheduler.base_lrs == [config.learning_rate]:
            decays = [group["weight_decay"] for group in scheduler.optimizer.param_groups]
            if decays == [config.weight_decay]:
                return
        scheduler.base_lrs = [config.learning_rate]
        factor = self.learning_rate_factor(self.trainer.global_step)
        for group in scheduler.optimizer.param_groups:
            group["initial_lr"] = config.learning_rate
            group["lr"] = config.learning_rate * factor
            group["weight_decay"] = config.weight_decay

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._batch = batch
        step, rank = self.trainer.global_step, self.global_rank
        torch.manual_seed(derive_seed(self.seed, self.number, step, rank))
        for layer, mixture in enumerate(self.model.mixtures):
            keys = [(self.seed, self.number, k, layer, step, rank) for k in self.expert_numbers()]
            mixture.experts.reseed([derive_seed(*key) for key in keys])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self._loss = loss.detach()
        self.log("train/loss", loss.detach() / self.num_streams, sync_dist=True)
        return loss

    @property
    def num_streams(self) -> int:
        """How many independent losses the loss sums up."""
        return 1

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        norm = self.clip(list(self.trainable().values()))
        half = str(self.trainer.precision) == "16-mixed"
        self._overflows = 0 if norm.isfinite() else self._overflows + 1
        # In float16, gradients overflow now and then: the scaler skips such a step, and halves its
        # factor, which leaves none to blame after 20 in a row.
        if norm.isfinite() or (half and self._overflows <= 20 and self._loss.isfinite()):
            self.log("train/gradient_norm", norm)
        else:
            self._skip()

    def _skip(self) -> None:
        """Leave the weights as they are: AdamW passes over parameters without a gradient.

        Raises:
            RunError: That was one step too many.
        """
        self.bad_steps += 1
        for parameter in self.trainable().values():
            parameter.grad = None
        self.log("train/bad_steps", float(self.bad_steps))
        if self.bad_steps <= self.config.max_bad_steps:
            return
        raise RunError(
            f"{self.title}: loss or gradient is not finite at step {self.trainer.global_step}, "
            f"after {self.bad_steps - 1} such steps were skipped. The batch is of "
            f"{self._bad_tasks()}. The last checkpoint holds finite weights. Lower the learning "
            "rate, or look at the data with `m3dt verify`."
        )

    @torch.no_grad()
    def _bad_tasks(self) -> str:
        """Return the tasks of the running batch, those first whose own loss is not finite."""
        batch, data = self._batch, self.trainer.datamodule  # type: ignore[attr-defined]
        assert batch is not None
        bad = ~row_losses(self.predictions(batch), batch).isfinite()
        chosen = batch.task_index[bad] if bad.any() else batch.task_index
        names = ", ".join(data.store.tasks[i].spec.name for i in chosen.unique().tolist())
        return f"{names} (rows {bad.nonzero().flatten().tolist()})" if bad.any() else names

    def clip(self, parameters: list[nn.Parameter]) -> Tensor:
        """Clip the gradients by their global norm and return the norm before."""
        return nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = AdamW(
            self.trainable().values(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            betas=(0.9, 0.999),
            # Fused AdamW would unscale float16 gradients itself, after they were clipped.
            fused=str(self.trainer.precision) != "16-mixed",
        )
        scheduler = LambdaLR(optimizer, self.learning_rate_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "learning_rate"},
        }

    def learning_rate_factor(self, step: int) -> float:
        """Return the factor on the learning rate: linear warm-up, then constant or cosine."""
        config = self.config
        warmup = min((step + 1) / max(config.warmup_steps, 1), 1.0)
        if config.decay == "none":
            return warmup
        done = (step - config.warmup_steps) / max(config.max_steps - config.warmup_steps, 1)
        return warmup * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = {f"model.{name}" for name in self.trainable()}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in kept}
        checkpoint[_BAD_STEPS] = self.bad_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.bad_steps = checkpoint.get(_BAD_STEPS, 0)
