"""AdamW with a linear warm-up, then a constant or cosine learning rate (paper table 5)."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from m3dt.config import StageConfig


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: StageConfig, fused: bool
) -> tuple[AdamW, LambdaLR]:
    """Return the optimiser and its schedule."""
    optimizer = AdamW(
        parameters,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.999),
        fused=fused,
    )
    return optimizer, LambdaLR(optimizer, lambda step: learning_rate_factor(config, step))


def learning_rate_factor(config: StageConfig, step: int) -> float:
    """Return the factor on the learning rate: linear warm-up, then constant or cosine."""
    warmup = min((step + 1) / max(config.warmup_steps, 1), 1.0)
    if config.decay == "none":
        return warmup
    done = (step - config.warmup_steps) / max(config.max_steps - config.warmup_steps, 1)
    return warmup * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


def take_configured_rates(scheduler: LambdaLR, config: StageConfig, step: int) -> None:
    """Replace the rates that a checkpoint brought along where the configuration has others."""
    groups = scheduler.optimizer.param_groups
    known = [group["weight_decay"] for group in groups] == [config.weight_decay]
    if known and scheduler.base_lrs == [config.learning_rate]:
        return
    scheduler.base_lrs = [config.learning_rate]
    for group in groups:
        group["initial_lr"] = config.learning_rate
        group["lr"] = config.learning_rate * learning_rate_factor(config, step)
        group["weight_decay"] = config.weight_decay
