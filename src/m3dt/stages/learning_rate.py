"""The learning rate: a linear warm-up, then constant or cosine (paper table 5)."""

import math

from m3dt.config import StageConfig


def learning_rate_factor(config: StageConfig, step: int) -> float:
    """Return the factor on the learning rate: linear warm-up, then constant or cosine."""
    warmup = min((step + 1) / max(config.warmup_steps, 1), 1.0)
    if config.decay == "none":
        return warmup
    done = (step - config.warmup_steps) / max(config.max_steps - config.warmup_steps, 1)
    return warmup * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))
