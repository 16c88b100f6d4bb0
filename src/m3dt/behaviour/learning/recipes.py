"""The PPO settings of each behaviour policy."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """Settings of PPO for one policy."""

    steps: int
    """Agent steps, summed over all simulations."""
    enough: float = 1001.0
    """Mean simulated return at which training ends early; no task reaches the default."""
    snapshots: int = 60
    num_envs: int = 256
    rollout_steps: int = 32
    batch_size: int = 1024
    epochs: int = 4
    learning_rate: float = 5e-4
    gamma: float = 0.99
    log_std: float = -0.5
    gravity: float = 1.0
    """Initial fraction of gravity; it grows linearly to 1 within `gravity_steps`."""
    gravity_steps: int = 1
    start_from: str = ""
    """Policy to start from, trained earlier in the same parent folder."""
    widths: tuple[int, ...] = (128, 128)


# Slow or hard tasks: more epochs on smaller minibatches.
_THOROUGH = Recipe(steps=3_000_000, epochs=10, batch_size=512, learning_rate=3e-4, enough=900)
_CHEETAH = replace(_THOROUGH, epochs=8)
# A hopper first learns to stand up and hop at a fifth of its weight.
_HOPPER = replace(_THOROUGH, steps=12_000_000, snapshots=120, gravity=0.2, gravity_steps=5_000_000)

RECIPES: dict[str, Recipe] = {
    "ant-dir": Recipe(steps=8_000_000, enough=690),
    "cheetah-vel": Recipe(steps=5_000_000),
    "walker-stand": replace(_THOROUGH, steps=1_500_000, start_from="walker-walk", enough=950),
    "walker-walk": replace(_THOROUGH, enough=925),
    "walker-run": replace(_THOROUGH, steps=4_000_000, start_from="walker-walk", enough=440),
    "walker-walk-backwards": replace(_THOROUGH, enough=735),
    "walker-run-backwards": replace(
        _THOROUGH, steps=4_000_000, start_from="walker-walk-backwards", enough=800
    ),
    "cheetah-run": _CHEETAH,
    "cheetah-run-backwards": _CHEETAH,
    "cheetah-run-front": replace(_CHEETAH, steps=4_000_000, gravity=0.3, gravity_steps=2_000_000),
    "cheetah-run-back": _CHEETAH,
    "cheetah-jump": replace(_CHEETAH, steps=4_000_000, gravity=0.3, gravity_steps=2_000_000),
    "hopper-hop": _HOPPER,
    "hopper-stand": replace(_THOROUGH, steps=4_000_000, start_from="hopper-hop", enough=930),
    "hopper-hop-backwards": replace(
        _HOPPER,
        steps=6_000_000,
        snapshots=60,
        gravity=0.3,
        gravity_steps=2_500_000,
        start_from="hopper-hop",
    ),
    "reacher-easy": Recipe(steps=1_500_000, enough=975),
    "reacher-hard": Recipe(steps=1_500_000, enough=975),
    "reacher-three-easy": Recipe(steps=1_500_000, enough=975),
    "reacher-three-hard": Recipe(steps=1_500_000, enough=975),
    "acrobot-swingup": Recipe(
        steps=8_000_000, snapshots=80, epochs=10, learning_rate=3e-4, enough=950
    ),
    "pendulum-swingup": replace(_THOROUGH, log_std=0.0, enough=950),
    "pendulum-spin": Recipe(steps=1_500_000, enough=950),
    "cartpole-balance": Recipe(steps=1_000_000, enough=990),
    "cartpole-balance-sparse": Recipe(steps=1_000_000, enough=990),
    "cartpole-swingup": Recipe(steps=3_000_000, enough=950),
    "cartpole-swingup-sparse": Recipe(steps=3_000_000, enough=950),
    "cup-catch": Recipe(steps=2_000_000, enough=960),
    "cup-spin": Recipe(steps=3_000_000, enough=950),
    "finger-spin": replace(_THOROUGH, steps=4_000_000, enough=950),
    "finger-turn-easy": replace(_THOROUGH, steps=4_000_000, enough=950),
    "finger-turn-hard": Recipe(steps=4_000_000, enough=950),
    "fish-swim": replace(_THOROUGH, steps=2_000_000, enough=535),
}
"""Recipes by policy. `trained/policies.json` records the results of the shipped policies."""
