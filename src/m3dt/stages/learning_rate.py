"""The learning rate: a linear warm-up, then constant (paper table 5), cosine or with a cooldown."""

import math

from m3dt.config import StageConfig


def learning_rate_factor(config: StageConfig, step: int, cools_from: int | None = None) -> float:
    """Return the factor on the learning rate at a step.

    Args:
        config: Of the stage.
        step: Number of optimiser steps before this one.
        cools_from: Where a cooldown begins; by default as late as `max_steps` allows.
    """
    warmup = min((step + 1) / max(config.warmup_steps, 1), 1.0)
    if config.decay == "none":
        return warmup
    if config.decay == "cooldown":
        begin = latest_cooldown(config) if cools_from is None else cools_from
        left = cooldown_end(config, begin) - step
        return warmup * min(max(left / cooldown_steps(config, begin), 0.0), 1.0)
    done = (step - config.warmup_steps) / max(config.max_steps - config.warmup_steps, 1)
    return warmup * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


def latest_cooldown(config: StageConfig) -> int:
    """Return the step from which a cooldown leads to `max_steps`."""
    return round(config.max_steps / (1 + config.cooldown_share))


def cooldown_steps(config: StageConfig, begin: int) -> int:
    """Return the number of steps of a cooldown: a share of those before it."""
    return max(1, min(round(config.cooldown_share * begin), config.max_steps - begin))


def cooldown_end(config: StageConfig, begin: int) -> int:
    """Return the number of steps at which a cooldown ends."""
    return begin + cooldown_steps(config, begin)
