"""Shaping rewards and exploring starts for tasks whose own reward is too sparse to find.

Shaping rewards are added to the task's reward during training. Every second simulation starts its
episodes from exploring starts, and may terminate them early. Policies are measured without either.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from dm_control.utils.rewards import tolerance

from m3dt.behaviour.learning.physics import Z_AXIS, View, finger_distance, to_target
from m3dt.behaviour.learning.rewards import REWARDS, Reward, ball_to_target, hopper_height


def _pendulum(view: View) -> np.ndarray:
    """Reward having the energy of the upright pendulum at rest, in units of m g l."""
    energy = view.frame(Z_AXIS, "pole")[:, 2] + 0.25 / (2 * 9.81 * 0.5) * view.qvel[:, 0] ** 2
    return 0.3 * tolerance(energy - 1, margin=1)


def acrobot_energy(view: View) -> np.ndarray:
    """Return the energy relative to the acrobot upright at rest, J, (B,)."""
    gravity = -view.model.opt.gravity[2]
    upper_mass, lower_mass = view.model.body_mass[1:3]
    upper_center, lower_center = view.model.body_ipos[1:3, 2]  # m, above each joint
    upper_inertia, lower_inertia = view.model.body_inertia[1:3, 1]
    length = view.model.body_pos[2, 2]  # m, from shoulder to elbow
    shoulder, elbow = view.qpos.T
    upper, lower = view.qvel[:, 0], view.qvel.sum(axis=1)  # rad/s in the world frame
    lower_speed_squared = (
        (length * upper) ** 2
        + (lower_center * lower) ** 2
        + 2 * length * lower_center * upper * lower * np.cos(elbow)
    )
    kinetic = 0.5 * (
        (upper_inertia + upper_mass * upper_center**2) * upper**2
        + lower_inertia * lower**2
        + lower_mass * lower_speed_squared
    )
    upper_height = np.cos(shoulder) - 1
    lower_height = np.cos(shoulder + elbow) - 1
    upper_lift = (upper_mass * upper_center + lower_mass * length) * upper_height
    return kinetic + gravity * (upper_lift + lower_mass * lower_center * lower_height)


def _acrobot(view: View) -> np.ndarray:
    return 0.3 * tolerance(acrobot_energy(view), margin=20)


def _reacher(view: View) -> np.ndarray:
    return 0.3 * tolerance(np.linalg.norm(to_target(view, "finger"), axis=1), margin=0.1)


def _finger_turn(view: View, radius: float) -> np.ndarray:
    return 0.3 * tolerance(np.maximum(finger_distance(view, radius), 0), margin=0.1)


def _finger_spin(view: View) -> np.ndarray:
    return 0.3 * np.clip(-view.read("hinge_velocity")[:, 0] / 15, 0, 1)


def _cup(view: View) -> np.ndarray:
    """Reward a ball above the cup, which may fall into it."""
    return 0.1 * np.clip(-ball_to_target(view)[:, 1] / 0.3, -1, 1)


def _hopper(view: View, direction: float, speed: float) -> np.ndarray:
    height = np.clip(hopper_height(view) / 0.6, 0, 1)
    upright = height**2
    if speed == 0:
        return 0.3 * upright
    return 0.3 * upright + 0.5 * upright * np.clip(direction * view.speed() / speed, -0.5, 1)


SHAPING: dict[str, Reward] = {
    "acrobot-swingup": _acrobot,
    "pendulum-swingup": _pendulum,
    "cartpole-swingup-sparse": REWARDS["cartpole-swingup"],
    "reacher-easy": _reacher,
    "reacher-hard": _reacher,
    "reacher-three-easy": _reacher,
    "reacher-three-hard": _reacher,
    "finger-spin": _finger_spin,
    "finger-turn-easy": partial(_finger_turn, radius=0.07),
    "finger-turn-hard": partial(_finger_turn, radius=0.03),
    "cup-catch": _cup,
    "hopper-stand": partial(_hopper, direction=1, speed=0),
    "hopper-hop": partial(_hopper, direction=1, speed=2),
    "hopper-hop-backwards": partial(_hopper, direction=-1, speed=1),
}


Start = tuple[np.ndarray, np.ndarray]
"""Joint positions and velocities."""


def _uniform(
    rng: np.random.Generator, positions: tuple[float, ...], velocities: tuple[float, ...]
) -> Start:
    """Draw joint positions and velocities uniformly within symmetric bounds."""
    bounds = np.array(positions), np.array(velocities)
    qpos, qvel = (rng.uniform(-bound, bound) for bound in bounds)
    return qpos, qvel


def _acrobot_near_the_top(rng: np.random.Generator) -> Start:
    """Draw any pose and velocity, mostly close to the top at rest, whose basin is narrow."""
    scale = rng.random() ** 4
    qpos = scale * rng.uniform(-np.pi, np.pi, 2)
    return qpos, scale * rng.uniform(-1, 1, 2) * np.array([4, 6])


def _standing_hopper(rng: np.random.Generator) -> Start:
    """Draw an upright pose, in the air or on the ground, at low speed."""
    qpos = rng.normal(0, 0.1, 7)
    qpos[0], qpos[1] = 0, rng.uniform(0, 0.3)
    qvel = rng.normal(0, 0.5, 7)
    return qpos, qvel


def _thrown_cheetah(rng: np.random.Generator) -> Start:
    """Draw a pose in the air, rotated by up to 126 degrees, that may land standing on end."""
    qpos = rng.normal(0, 0.2, 9)
    qpos[0], qpos[1], qpos[2] = 0, rng.uniform(0, 0.8), rng.uniform(-2.2, 2.2)
    return qpos, rng.normal(0, 0.5, 9)


EXPLORING_STARTS: dict[str, Callable[[np.random.Generator], Start]] = {
    "pendulum-swingup": partial(_uniform, positions=(np.pi,), velocities=(8,)),
    "acrobot-swingup": _acrobot_near_the_top,
    "cartpole-swingup": partial(_uniform, positions=(1, np.pi), velocities=(2, 6)),
    "cartpole-swingup-sparse": partial(_uniform, positions=(1, np.pi), velocities=(2, 6)),
    "cheetah-jump": _thrown_cheetah,
    "hopper-stand": _standing_hopper,
    "hopper-hop": _standing_hopper,
    "hopper-hop-backwards": _standing_hopper,
}
"""Functions that draw an initial state, by task."""


def _fallen_hopper(view: View) -> np.ndarray:
    return hopper_height(view) < 0.45


TERMINATIONS: dict[str, Callable[[View], np.ndarray]] = {
    "hopper-stand": _fallen_hopper,
    "hopper-hop": _fallen_hopper,
    "hopper-hop-backwards": _fallen_hopper,
}
"""When an episode from an exploring start ends: balance is learnt first, getting up later."""
