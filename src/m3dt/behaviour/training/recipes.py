"""How each behaviour policy is trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """Settings of PPO for one policy."""

    steps: int
    """Agent steps over all simulations."""
    enough: float = np.inf
    """Mean return in simulation at which training ends early."""
    snapshots: int = 60
    num_envs: int = 256
    rollout_steps: int = 32
    batch_size: int = 1024
    epochs: int = 4
    learning_rate: float = 5e-4
    gamma: float = 0.99
    entropy: float = 0.0
    log_std: float = -0.5
    gravity: float = 1.0
    """Share of gravity to begin with; it grows in proportion and is whole after `gravity_steps`."""
    gravity_steps: int = 1
    exploring_steps: int = 0
    """Steps at the beginning in which all episodes begin in exploring starts."""
    start_from: str = ""
    """Another policy, trained before in the same folder, to continue from."""
    sde_steps: int = 0
    """Steps between draws of state-dependent exploration noise; 0 for independent noise."""
    widths: tuple[int, ...] = (128, 128)


# Where simulation is slow, more is learnt from each batch.
_THOROUGH = Recipe(steps=3_000_000, epochs=10, batch_size=512, learning_rate=3e-4, enough=950)

RECIPES: dict[str, Recipe] = {}


def recipe_of(policy: str) -> Recipe:
    """Return the recipe of a policy."""
    return RECIPES[policy]
