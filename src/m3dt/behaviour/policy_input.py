"""The input of a behaviour policy: the observation with exact symmetries removed."""

from __future__ import annotations

import numpy as np

from m3dt.tasks import TaskSpec

_CHEETAH_INPUT = 17  # joint angles and velocities, without the position in the world
_ANT_QUATERNION, _ANT_VELOCITY = slice(1, 5), slice(13, 15)


def input_dim(spec: TaskSpec) -> int:
    """Return the length of a task's policy input."""
    return policy_input(spec, np.zeros(spec.state_dim), np.zeros(())).shape[-1]


def policy_input(spec: TaskSpec, observations: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the input of a task's behaviour policy, (..., input_dim).

    Exact symmetries are removed, so that one policy covers all their cases. The ant's world is
    rotated so that its goal points along x, and the reacher's target is expressed in the frame of
    its first link. For the cheetah, the goal is appended. Other observations stay unchanged.

    Args:
        spec: The task; its own goal is not read.
        observations: (..., S).
        goal: Goal of each row, (...); ignored for DMControl.
    """
    if spec.domain == "cheetah-vel":
        return np.concatenate((observations[..., :_CHEETAH_INPUT], goal[..., None]), axis=-1)
    if spec.domain == "ant-dir":
        return _rotate_ant(observations, goal)
    if spec.name.startswith("reacher"):
        return _rotate_reacher(observations, spec.action_dim)
    return observations


def _rotate(vector: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotate vectors (..., 2) by angles in radians, (...)."""
    x, y = np.moveaxis(vector, -1, 0)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack((c * x - s * y, s * x + c * y), axis=-1)


def _rotate_ant(observations: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Rotate the orientation and the horizontal velocity by -goal about z."""
    result = observations.copy()
    w, x, y, z = np.moveaxis(observations[..., _ANT_QUATERNION], -1, 0)
    c, s = np.cos(goal / 2), -np.sin(goal / 2)
    rotated = np.stack((c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w), axis=-1)
    # A quaternion and its negative are the same orientation; keep the one with w >= 0.
    result[..., _ANT_QUATERNION] = np.where(rotated[..., :1] < 0, -rotated, rotated)
    result[..., _ANT_VELOCITY] = _rotate(observations[..., _ANT_VELOCITY], -goal)
    return result


def _rotate_reacher(observations: np.ndarray, num_joints: int) -> np.ndarray:
    """Rotate the vector to the target into the frame of the first link; drop that joint's angle."""
    target = slice(num_joints, num_joints + 2)
    rotated = _rotate(observations[..., target], -observations[..., 0])
    before, after = observations[..., 1:num_joints], observations[..., num_joints + 2 :]
    return np.concatenate((before, rotated, after), axis=-1)
