"""Tasks that are not of the 160: a pendulum swings up under the gravity of several bodies."""

from functools import partial

import gymnasium
import numpy as np

import m3dt

GRAVITY = {"titan": 1.4, "moon": 1.6, "mars": 3.7, "earth": 9.8}  # m/s^2; none trains on titan


def swing_up(observation: np.ndarray, gravity: float) -> np.ndarray:
    """Pump energy in until the pendulum is near the top, then hold it there."""
    cos, sin, speed = observation
    if cos > 0.9:
        torque = -12 * np.arctan2(sin, cos) - 3 * speed
    else:
        missing = 1.5 * gravity * (1 - cos) - speed**2 / 2
        torque = 2 * np.sign(missing * speed) if speed else 2.0
    return np.clip([torque / 2], -1, 1)


for body, gravity in GRAVITY.items():
    m3dt.register_task(
        m3dt.TaskSpec(f"pendulum-{body}", "pendulum", state_dim=3, action_dim=1, horizon=200),
        partial(gymnasium.make, "Pendulum-v1", g=gravity),
        policy=partial(swing_up, gravity=gravity),
    )
