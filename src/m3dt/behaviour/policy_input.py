"""What a behaviour policy sees of an observation.

Letters: S observation, I input.
"""

from __future__ import annotations

import numpy as np

from m3dt.tasks import TaskSpec

_CHEETAH_INPUT = 17  # joint angles and rates; the position in the world behind them is of no use
_ANT_QUATERNION, _ANT_VELOCITY = slice(1, 5), slice(13, 15)


def input_dim(spec: TaskSpec) -> int:
    """Return the length I of a task's policy input."""
    return policy_input(spec, np.zeros(spec.state_dim), np.zeros(())).shape[-1]


def policy_input(spec: TaskSpec, observations: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the input of a task's behaviour policy.

    Symmetries that are exact are taken out, so that one policy serves all of them: an ant sees the
    world turned such that its goal lies along x, a reacher the target as seen from its first link.
    A cheetah is told its goal. Other observations serve as they are.

    Args:
        spec: The task; its goal is not read.
        observations: (..., S).
        goal: Goal of each row, (...); ignored for DMControl.
    """
    if spec.domain == "cheetah-vel":
        return np.concatenate((observations[..., :_CHEETAH_INPUT], goal[..., None]), axis=-1)
    if spec.domain == "ant-dir":
        return _turn_ant(observations, goal)
    if spec.name.startswith("reacher"):
        return _turn_reacher(observations, spec.action_dim)
    return observations


def _turn_plane(vector: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Turn vectors (..., 2) by an angle in radians, (...)."""
    x, y = np.moveaxis(vector, -1, 0)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack((c * x - s * y, s * x + c * y), axis=-1)


def _turn_ant(observations: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Turn quaternion and velocity in the plane by -goal about z."""
    result = observations.copy()
    w, x, y, z = np.moveaxis(observations[..., _ANT_QUATERNION], -1, 0)
    c, s = np.cos(goal / 2), -np.sin(goal / 2)
    turned = np.stack((c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w), axis=-1)
    # A quaternion and its negative are one orientation; the policy sees one of them.
    result[..., _ANT_QUATERNION] = np.where(turned[..., :1] < 0, -turned, turned)
    result[..., _ANT_VELOCITY] = _turn_plane(observations[..., _ANT_VELOCITY], -goal)
    return result


def _turn_reacher(observations: np.ndarray, num_joints: int) -> np.ndarray:
    """Turn the vector to the target by minus the angle of the first joint, and drop that angle."""
    target = slice(num_joints, num_joints + 2)
    turned = _turn_plane(observations[..., target], -observations[..., 0])
    before, after = observations[..., 1:num_joints], observations[..., num_joints + 2 :]
    return np.concatenate((before, turned, after), axis=-1)
