"""Observations of batched simulations, and the quantities that rewards read.

dm_control computes them for one simulation. Here, the same quantities come from arrays of joint
states and of sensors added to the suite's models. A test compares each task with the real
environment.

Letters: B simulations, S observation dim, A action dim.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import mujoco
import numpy as np

_SENSOR = mujoco.mjtSensor
_BODY, _INERTIA = mujoco.mjtObj.mjOBJ_XBODY, mujoco.mjtObj.mjOBJ_BODY
_SITE, _GEOM = mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtObj.mjOBJ_GEOM
POSITION, X_AXIS = _SENSOR.mjSENS_FRAMEPOS, _SENSOR.mjSENS_FRAMEXAXIS
Y_AXIS, Z_AXIS = _SENSOR.mjSENS_FRAMEYAXIS, _SENSOR.mjSENS_FRAMEZAXIS


@dataclass(frozen=True)
class Sensor:
    """A sensor to add to a model; its name is `<kind>:<object>`."""

    kind: mujoco.mjtSensor
    object_type: mujoco.mjtObj
    object_name: str

    @property
    def name(self) -> str:
        return f"{self.kind.name}:{self.object_name}"


@dataclass(frozen=True)
class View:
    """The state of B simulations at one moment."""

    model: mujoco.MjModel
    qpos: np.ndarray  # (B, nq), joint positions
    qvel: np.ndarray  # (B, nv), joint velocities
    sensors: np.ndarray  # (B, num_sensors)
    contact_sensors: np.ndarray  # the same one step earlier, when dm_control reads contact forces
    action: np.ndarray  # (B, A), the last one
    target: np.ndarray  # (B, 3), position of the episode's target; zeros if the task has none

    def read(self, name: str, contact: bool = False) -> np.ndarray:
        """Return the values of a sensor, (B, width)."""
        sensor = self.model.sensor(name)
        address, width = int(sensor.adr[0]), int(sensor.dim[0])
        return (self.contact_sensors if contact else self.sensors)[:, address : address + width]

    def frame(self, kind: mujoco.mjtSensor, name: str) -> np.ndarray:
        """Return the position or an axis of an object with an added sensor, (B, 3)."""
        return self.read(f"{kind.name}:{name}")

    def height(self, name: str) -> np.ndarray:
        """Return the height of an object, m, (B,)."""
        return self.frame(POSITION, name)[:, 2]

    def speed(self) -> np.ndarray:
        """Return the horizontal velocity of the centre of mass, m/s, (B,)."""
        return self.read("torso_subtreelinvel")[:, 0]

    def touch(self, *names: str) -> np.ndarray:
        """Return contact forces on a logarithmic scale, (B, len(names))."""
        return np.log1p(np.hstack([self.read(name, contact=True) for name in names]))


@dataclass(frozen=True)
class Family:
    """Observation, sensors and target of the tasks that share a model."""

    observe: Callable[[View], np.ndarray]
    sensors: tuple[Sensor, ...] = ()
    target: Callable[[Any], np.ndarray] = lambda physics: np.zeros(3)
    """Reads the target's position from a dm_control physics."""


def _joint_state(view: View) -> np.ndarray:
    return np.hstack((view.qpos, view.qvel))


def _joint_state_without_x(view: View) -> np.ndarray:
    return np.hstack((view.qpos[:, 1:], view.qvel))


_WALKER_BODIES = ("torso", "right_thigh", "right_leg", "right_foot",
                  "left_thigh", "left_leg", "left_foot")  # fmt: skip


def _walker(view: View) -> np.ndarray:
    columns = []
    for body in _WALKER_BODIES:
        columns += [view.frame(X_AXIS, body)[:, :1], view.frame(Z_AXIS, body)[:, :1]]
    return np.hstack((*columns, view.frame(POSITION, "torso")[:, 2:], view.qvel))


def _hopper(view: View) -> np.ndarray:
    return np.hstack((_joint_state_without_x(view), view.touch("touch_toe", "touch_heel")))


def to_target(view: View, finger: str) -> np.ndarray:
    """Return the horizontal vector from a finger to the target, m, (B, 2)."""
    return view.target[:, :2] - view.frame(POSITION, finger)[:, :2]


def _reacher(view: View) -> np.ndarray:
    return np.hstack((view.qpos, to_target(view, "finger"), view.qvel))


def _acrobot(view: View) -> np.ndarray:
    axes = [view.frame(Z_AXIS, arm) for arm in ("upper_arm", "lower_arm")]
    return np.stack([*(a[:, 0] for a in axes), *(a[:, 2] for a in axes), *view.qvel.T], axis=1)


def _pendulum(view: View) -> np.ndarray:
    axis = view.frame(Z_AXIS, "pole")
    return np.hstack((axis[:, 2:], axis[:, :1], view.qvel))


def _cartpole(view: View) -> np.ndarray:
    axis = view.frame(Z_AXIS, "pole_1")
    return np.hstack((view.qpos[:, :1], axis[:, 2:], axis[:, :1], view.qvel))


_XZ = [0, 2]


def _tip(view: View) -> np.ndarray:
    return view.read("tip")[:, _XZ] - view.read("spinner")[:, _XZ]


def _finger_target(view: View) -> np.ndarray:
    return view.target[:, _XZ] - view.read("spinner")[:, _XZ]


def _finger(view: View) -> np.ndarray:
    names = ("proximal_velocity", "distal_velocity", "hinge_velocity")
    position = (view.read("proximal"), view.read("distal"), _tip(view))
    velocity = [view.read(name) for name in names]
    return np.hstack((*position, *velocity, view.touch("touchtop", "touchbottom")))


def finger_distance(view: View, radius: float) -> np.ndarray:
    """Return the distance from the spinner's tip to the target's surface, m, (B,)."""
    return np.linalg.norm(_finger_target(view) - _tip(view), axis=1) - radius


def _finger_turn(view: View, radius: float) -> np.ndarray:
    distance = finger_distance(view, radius)[:, None]
    return np.hstack((_finger(view), _finger_target(view), distance))


def _finger_target_of(physics: Any) -> np.ndarray:
    return physics.named.model.site_pos["target"]


_FISH_JOINTS = ("tail1", "tail_twist", "tail2", "finright_roll", "finright_pitch",
                "finleft_roll", "finleft_pitch")  # fmt: skip


def mouth_to_target(view: View) -> np.ndarray:
    """Return the vector from a fish's mouth to the target in the mouth's frame, m, (B, 3)."""
    offset = view.target - view.frame(POSITION, "mouth")
    axes = [view.frame(axis, "mouth") for axis in (X_AXIS, Y_AXIS, Z_AXIS)]
    return np.stack([(offset * axis).sum(1) for axis in axes], axis=1)


def _fish(view: View) -> np.ndarray:
    joints = [int(view.model.joint(name).qposadr[0]) for name in _FISH_JOINTS]
    upright = view.frame(Z_AXIS, "torso")[:, 2:]
    return np.hstack((view.qpos[:, joints], upright, mouth_to_target(view), view.qvel))


FAMILIES: Mapping[str, Family] = {
    "walker": Family(
        _walker,
        (
            *(Sensor(axis, _BODY, body) for body in _WALKER_BODIES for axis in (X_AXIS, Z_AXIS)),
            Sensor(POSITION, _BODY, "torso"),
        ),
    ),
    "cheetah": Family(
        _joint_state_without_x,
        tuple(Sensor(POSITION, _BODY, body) for body in ("torso", "bfoot", "ffoot")),
    ),
    "hopper": Family(
        _hopper, tuple(Sensor(POSITION, _INERTIA, body) for body in ("torso", "foot"))
    ),
    "reacher": Family(
        _reacher,
        (Sensor(POSITION, _GEOM, "finger"),),
        lambda physics: physics.named.model.geom_pos["target"],
    ),
    "acrobot": Family(
        _acrobot,
        (
            Sensor(Z_AXIS, _BODY, "upper_arm"),
            Sensor(Z_AXIS, _BODY, "lower_arm"),
            Sensor(POSITION, _SITE, "target"),
            Sensor(POSITION, _SITE, "tip"),
        ),
    ),
    "pendulum": Family(_pendulum, (Sensor(Z_AXIS, _BODY, "pole"),)),
    "cartpole": Family(_cartpole, (Sensor(Z_AXIS, _BODY, "pole_1"),)),
    "cup": Family(
        _joint_state, (Sensor(POSITION, _SITE, "target"), Sensor(POSITION, _BODY, "ball"))
    ),
    "finger-spin": Family(_finger),
    "finger-turn-easy": Family(partial(_finger_turn, radius=0.07), (), _finger_target_of),
    "finger-turn-hard": Family(partial(_finger_turn, radius=0.03), (), _finger_target_of),
    "fish": Family(
        _fish,
        (
            *(Sensor(kind, _GEOM, "mouth") for kind in (POSITION, X_AXIS, Y_AXIS, Z_AXIS)),
            Sensor(Z_AXIS, _BODY, "torso"),
        ),
        lambda physics: physics.named.model.geom_pos["target"],
    ),
}
"""Families by task name, or by its first word."""


def family_of(env_id: str) -> Family:
    """Return the family of a DMControl task."""
    return FAMILIES[env_id] if env_id in FAMILIES else FAMILIES[env_id.split("-")[0]]
