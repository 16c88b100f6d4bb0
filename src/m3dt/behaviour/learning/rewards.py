"""DMControl rewards of batched simulations, (B,).

Rewards of suite tasks are rewritten for arrays; custom tasks use `dmcontrol_custom`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from dm_control.utils.rewards import tolerance

from m3dt.behaviour.learning.physics import (
    POSITION,
    Z_AXIS,
    View,
    finger_distance,
    mouth_to_target,
    to_target,
)
from m3dt.tasks import dmcontrol_custom as custom

Reward = Callable[[View], np.ndarray]
_HOP_HEIGHT = (0.6, 2)  # m, a hopper's torso above its foot
_FINGER_RADIUS = 0.01


def _walker(view: View, speed: float) -> np.ndarray:
    stand = custom.walker_stand_reward(view.height("torso"), view.frame(Z_AXIS, "torso")[:, 2])
    if speed == 0:
        return stand
    move = tolerance(
        view.speed(), (speed, np.inf), margin=speed / 2, value_at_margin=0.5, sigmoid="linear"
    )
    return stand * (5 * move + 1) / 6


def _walker_backwards(view: View, pace: float) -> np.ndarray:
    upright = view.frame(Z_AXIS, "torso")[:, 2]
    return custom.walker_backwards_reward(view.height("torso"), upright, view.speed(), pace)


def _cheetah_run(view: View) -> np.ndarray:
    return tolerance(view.speed(), (10, np.inf), margin=10, value_at_margin=0, sigmoid="linear")


def _one_foot(view: View, raised: str) -> np.ndarray:
    return custom.one_foot_reward(view.height("torso"), view.height(raised), view.speed())


def _jump(view: View) -> np.ndarray:
    feet = (view.height("bfoot"), view.height("ffoot"))
    return custom.jump_reward(view.height("torso"), feet, view.speed())


def hopper_height(view: View) -> np.ndarray:
    """Return the height of a hopper's torso above its foot, m, (B,)."""
    return view.height("torso") - view.height("foot")


def _small_control(view: View) -> np.ndarray:
    return tolerance(view.action, margin=1, value_at_margin=0, sigmoid="quadratic").mean(1)


def _hopper_stand(view: View) -> np.ndarray:
    return tolerance(hopper_height(view), _HOP_HEIGHT) * (_small_control(view) + 4) / 5


def _hopper_hop(view: View) -> np.ndarray:
    hopping = tolerance(view.speed(), (2, np.inf), margin=1, value_at_margin=0.5, sigmoid="linear")
    return tolerance(hopper_height(view), _HOP_HEIGHT) * hopping


def _hopper_backwards(view: View) -> np.ndarray:
    return custom.hopper_backwards_reward(hopper_height(view), view.speed())


def _reacher(view: View, radius: float) -> np.ndarray:
    distance = np.linalg.norm(to_target(view, "finger"), axis=1)
    return tolerance(distance, (0, radius + _FINGER_RADIUS))


def _acrobot(view: View) -> np.ndarray:
    offset = view.frame(POSITION, "target") - view.frame(POSITION, "tip")
    return tolerance(np.linalg.norm(offset, axis=1), (0, 0.2), margin=1)


def _pendulum(view: View) -> np.ndarray:
    return tolerance(view.frame(Z_AXIS, "pole")[:, 2], (np.cos(np.deg2rad(8)), 1))


def _cartpole(view: View) -> np.ndarray:
    upright = (view.frame(Z_AXIS, "pole_1")[:, 2] + 1) / 2
    centered = (1 + tolerance(view.qpos[:, 0], margin=2)) / 2
    small_velocity = (1 + tolerance(view.qvel[:, 1], margin=5)) / 2
    return upright * (4 + _small_control(view)) / 5 * small_velocity * centered


def _cartpole_sparse(view: View) -> np.ndarray:
    centered = tolerance(view.qpos[:, 0], (-0.25, 0.25))
    return centered * tolerance(view.frame(Z_AXIS, "pole_1")[:, 2], (0.995, 1))


def ball_to_target(view: View) -> np.ndarray:
    """Return the vector from the ball to the inside of the cup, m, (B, 2)."""
    return (view.frame(POSITION, "target") - view.frame(POSITION, "ball"))[:, [0, 2]]


def _cup_catch(view: View) -> np.ndarray:
    room = view.model.site("target").size[[0, 2]] - view.model.geom("ball").size[0]
    return (np.abs(ball_to_target(view)) < room).all(1).astype(float)


def _cup_spin(view: View) -> np.ndarray:
    distance = np.linalg.norm(ball_to_target(view), axis=1)
    speed = np.hypot(view.qvel[:, 2], view.qvel[:, 3])
    return custom.cup_spin_reward(distance, speed, _cup_catch(view))


def _finger_spin(view: View) -> np.ndarray:
    return (view.read("hinge_velocity")[:, 0] <= -15).astype(float)


def _finger_turn(view: View, radius: float) -> np.ndarray:
    return (finger_distance(view, radius) <= 0).astype(float)


def _fish(view: View) -> np.ndarray:
    radii = view.model.geom("mouth").size[0] + view.model.geom("target").size[0]
    distance = np.linalg.norm(mouth_to_target(view), axis=1)
    in_target = tolerance(distance, (0, radii), margin=2 * radii)
    return (7 * in_target + (view.frame(Z_AXIS, "torso")[:, 2] + 1) / 2) / 8


REWARDS: dict[str, Reward] = {
    "walker-stand": partial(_walker, speed=0),
    "walker-walk": partial(_walker, speed=1),
    "walker-run": partial(_walker, speed=8),
    "walker-walk-backwards": partial(_walker_backwards, pace=1),
    "walker-run-backwards": partial(_walker_backwards, pace=8),
    "cheetah-run": _cheetah_run,
    "cheetah-run-backwards": lambda view: custom.cheetah_backwards_reward(view.speed()),
    "cheetah-run-front": partial(_one_foot, raised="bfoot"),
    "cheetah-run-back": partial(_one_foot, raised="ffoot"),
    "cheetah-jump": _jump,
    "hopper-stand": _hopper_stand,
    "hopper-hop": _hopper_hop,
    "hopper-hop-backwards": _hopper_backwards,
    "reacher-easy": partial(_reacher, radius=0.05),
    "reacher-hard": partial(_reacher, radius=0.015),
    "reacher-three-easy": partial(_reacher, radius=0.05),
    "reacher-three-hard": partial(_reacher, radius=0.015),
    "acrobot-swingup": _acrobot,
    "pendulum-swingup": _pendulum,
    "pendulum-spin": lambda view: custom.pendulum_spin_reward(view.qvel[:, 0]),
    "cartpole-balance": _cartpole,
    "cartpole-balance-sparse": _cartpole_sparse,
    "cartpole-swingup": _cartpole,
    "cartpole-swingup-sparse": _cartpole_sparse,
    "cup-catch": _cup_catch,
    "cup-spin": _cup_spin,
    "finger-spin": _finger_spin,
    "finger-turn-easy": partial(_finger_turn, radius=0.07),
    "finger-turn-hard": partial(_finger_turn, radius=0.03),
    "fish-swim": _fish,
}
