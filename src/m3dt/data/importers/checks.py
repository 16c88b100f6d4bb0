"""Checks of imported episodes, common to all formats."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from m3dt.data.values import unsound
from m3dt.tasks import TaskSpec, Trajectory
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError


def checked_trajectory(spec: TaskSpec, where: str, arrays: Mapping[str, Any]) -> Trajectory:
    """Check one episode, called `where` in messages; return it with the task's own widths.

    The arrays are `observations` (T, S), `actions` (T, A), `rewards` (T,) or (T, 1), and `success`
    if known. Columns beyond the task's widths must be zero padding.

    Raises:
        UserError: An array is missing, has the wrong length or width, or is not finite.
    """
    for name in ("observations", "actions", "rewards"):
        if name not in arrays:
            raise UserError(
                f"{where}: '{name}' is missing; it has {', '.join(map(str, arrays)) or 'nothing'}"
            )
    observations = _native(where, "observations", arrays["observations"], spec.state_dim)
    actions = _native(where, "actions", arrays["actions"], spec.action_dim)
    rewards = numbers(where, "rewards", arrays["rewards"])
    if rewards.ndim == 2 and rewards.shape[1] == 1:
        rewards = rewards[:, 0]
    if rewards.ndim != 1:
        raise UserError(f"{where}: 'rewards' has shape {rewards.shape}, expected (steps,)")
    lengths = {len(observations), len(actions), len(rewards)}
    if len(lengths) != 1 or lengths == {0}:
        raise UserError(
            f"{where}: {counted(len(observations), 'observation')}, "
            f"{counted(len(actions), 'action')} and {counted(len(rewards), 'reward')}; there "
            "must be as many of each, and one at least"
        )
    if len(rewards) > spec.horizon:
        raise UserError(
            f"{where}: {counted(len(rewards), 'step')}, but an episode of {spec.name} "
            f"has {spec.horizon}"
        )
    success = arrays.get("success")
    if success is not None:
        success = bool(numbers(where, "success", success).any())
    return Trajectory(observations, actions, rewards, success)


def numbers(where: str, name: str, value: Any) -> np.ndarray:
    """Return an array of one episode as float32, after checking that its numbers are sound.

    Raises:
        UserError: It is a dictionary, ragged, not of numbers, not finite or absurdly large.
    """
    if isinstance(value, Mapping):
        raise UserError(
            f"{where}: '{name}' is a dictionary (space Dict) of {', '.join(map(repr, value))}. "
            "Join those that the task's observations or actions consist of to one array, for "
            "example with gymnasium's FlattenObservation, and export the dataset again."
        )
    try:
        array = np.asarray(value)
    except ValueError:
        raise UserError(f"{where}: '{name}' is ragged, not one array") from None
    if array.dtype.kind not in "fiub":
        raise UserError(f"{where}: '{name}' holds {array.dtype}, not numbers")
    with np.errstate(over="ignore"):  # infinite numbers are refused below
        array = array.astype(np.float32)
    found = unsound(name, array)
    if found:
        raise UserError(f"{where}: {found[0]}, first at step {found[1]}")
    return array


def _native(where: str, name: str, value: Any, width: int) -> np.ndarray:
    array = numbers(where, name, value)
    if array.ndim != 2 or array.shape[1] < width:
        raise UserError(f"{where}: '{name}' has shape {array.shape}, expected (steps, {width})")
    if np.any(array[:, width:]):
        raise UserError(
            f"{where}: '{name}' has {array.shape[1]} columns that are not zero, but the task has "
            f"{width}"
        )
    return array[:, :width]
