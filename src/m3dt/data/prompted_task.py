"""One task as an agent meets it: from the data it was trained on, or from prompts alone.

Letters: P prompt steps, S state dim, A action dim.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from m3dt.config import LoaderConfig, ModelConfig
from m3dt.data.batch import Segment
from m3dt.data.cutter import Joined, TrajectoryCutter
from m3dt.data.format import NUM_PROMPTS
from m3dt.data.inputs import TaskInputs
from m3dt.data.normalization import (
    Normalization,
    live_normalization,
    normalizations,
    prompt_normalization,
)
from m3dt.data.store import TaskStore
from m3dt.data.values import check_numbers, number_array
from m3dt.tasks import TaskSpec, Trajectory
from m3dt.utils.errors import UserError
from m3dt.utils.numbers import finite_number

UNNAMED = "the prompted task"
"""The name of a task that has none, in messages."""
UNSEEN = -1
"""The index of a task that an agent was not trained on."""
_RETURNS_TO_GO = 5.0  # largest of a prompt, in return scales: as in DMControl, 1000 / 200


@dataclass(frozen=True)
class PromptedTask:
    """A task's specification, what prepares its live episodes, and its prompts."""

    spec: TaskSpec  # complete
    index: int  # position among the tasks that the agent was trained on, or UNSEEN
    best_return: float  # of the trajectories that the agent knows
    inputs: TaskInputs
    prompts: Segment  # (prompts, P, ...), prepared
    prompt_normalization: Normalization  # of the states in prompts

    @classmethod
    def from_store(cls, store: TaskStore, model: ModelConfig, loader: LoaderConfig) -> PromptedTask:
        """Describe a task that an agent was not trained on by its data, whose last are its prompts.

        States are normalised as in the agent's training, whose settings are `loader`: live ones by
        mean and standard deviation of the training trajectories' states.

        Raises:
            UserError: The task is too wide for the model.
        """
        spec = store.spec
        if spec.state_dim > model.state_dim or spec.action_dim > model.action_dim:
            raise UserError(
                f"{spec.name} has {spec.state_dim} state and {spec.action_dim} action dimensions; "
                f"the model takes at most {model.state_dim} and {model.action_dim}"
            )
        live, of_prompts = normalizations(store, loader, model.state_dim)
        inputs, prompt_inputs = (
            TaskInputs(n, spec.return_scale, model) for n in (live, of_prompts)
        )
        last = len(store.episode_ends) - NUM_PROMPTS + np.arange(NUM_PROMPTS)
        prompts = TrajectoryCutter(store).ends(last, model.prompt_length, prompt_inputs).segment()
        best = float(store.episode_returns.max())
        return cls(spec, UNSEEN, best, inputs, prompts, of_prompts)

    @classmethod
    def from_trajectories(
        cls,
        trajectories: Sequence[Trajectory],
        model: ModelConfig,
        loader: LoaderConfig,
        spec: TaskSpec | None = None,
        target_return: float | None = None,
        return_scale: float | None = None,
    ) -> PromptedTask:
        """Describe a task that an agent was not trained on by some of its trajectories.

        They give the prompts: of each, the last steps before the final one. All of their states
        give mean and standard deviation, which normalise prompts and live states.

        Args:
            trajectories: Whole episodes.
            model: The model that will act.
            loader: The settings of its training; they say how states are normalised.
            spec: The task, if it has a name; it must be complete.
            target_return: Without `spec`: what the agent is asked for; by default the trajectories'
                best return.
            return_scale: Without `spec`: divisor of returns; by default a fifth of the largest
                absolute return, or 1 where all returns are 0.

        Raises:
            UserError: Trajectories are missing, do not fit together, are too wide for the model, or
                hold values that are not finite; or a number is.
        """
        checked = _checked(trajectories, model)
        joined = Joined.join(checked)
        states = joined.observations.astype(np.float64)
        moments = states.mean(axis=0), states.std(axis=0)
        normalization = live_normalization(*moments, loader, model.state_dim)
        best = max(trajectory.episode_return for trajectory in checked)
        if spec is None:
            spec = _unnamed(checked, target_return, return_scale)
        inputs = TaskInputs(normalization, spec.return_scale, model)
        every = np.arange(len(checked))
        prompts = TrajectoryCutter(joined).ends(every, model.prompt_length, inputs).segment()
        return cls(spec, UNSEEN, best, inputs, prompts, normalization)

    def prompted_by(self, store: TaskStore, share: float, loader: LoaderConfig) -> PromptedTask:
        """Return the task with other prompts, normalised as those in the agent's training.

        Args:
            store: Gives the prompts: those of its trajectories whose returns are nearest to the
                lowest + share (highest - lowest).
            share: From 0 to 1.
            loader: The settings of the training; they say how states are normalised.
        """
        returns = store.episode_returns.astype(np.float64)
        wanted = returns.min() + share * (returns.max() - returns.min())
        nearest = np.argsort(np.abs(returns - wanted), kind="stable")[:NUM_PROMPTS]
        chosen = [np.arange(store.episode_starts[i], store.episode_ends[i]) for i in nearest]
        states = store.observations[np.sort(np.concatenate(chosen))]
        normalization = prompt_normalization(states, self.inputs.normalization, loader)
        inputs = TaskInputs(normalization, self.inputs.return_scale, self.inputs.model)
        prompts = (
            TrajectoryCutter(store).ends(nearest, inputs.model.prompt_length, inputs).segment()
        )
        return replace(self, prompts=prompts, prompt_normalization=normalization)

    def fingerprint(self) -> str:
        """Return a hash of the prompts, and of what normalises prompts and live episodes."""
        digest = hashlib.sha256(repr(self.inputs.return_scale).encode())
        for tensor in self.prompts:
            digest.update(tensor.contiguous().numpy().tobytes())
        for normalization in (self.prompt_normalization, self.inputs.normalization):
            digest.update(normalization.mean.tobytes() + normalization.std.tobytes())
        return digest.hexdigest()


def _unnamed(
    trajectories: Sequence[Trajectory], target_return: float | None, return_scale: float | None
) -> TaskSpec:
    """Return the specification of a task that nobody has named, from checked trajectories."""
    returns = [trajectory.episode_return for trajectory in trajectories]
    if return_scale is None:
        scale = max(map(abs, returns)) / _RETURNS_TO_GO or 1.0
    else:
        scale = finite_number("return_scale", return_scale)
    if not 0 < scale < math.inf:
        raise UserError(f"return_scale={scale}: must be finite and positive")
    target = max(returns) if target_return is None else target_return
    first = trajectories[0]
    widths = first.observations.shape[1], first.actions.shape[1]
    horizon = max(len(trajectory.rewards) for trajectory in trajectories)
    return TaskSpec(UNNAMED, UNNAMED, *widths, horizon, target, scale)


def _checked(trajectories: Sequence[Trajectory], model: ModelConfig) -> list[Trajectory]:
    """Return trajectories with arrays of float32 that fit together.

    Raises:
        UserError: They do not.
    """
    if not trajectories:
        raise UserError("prompt: give at least one Trajectory")
    checked = [_arrays(f"prompt {i}", trajectory) for i, trajectory in enumerate(trajectories)]
    S, A = checked[0].observations.shape[1], checked[0].actions.shape[1]
    if S > model.state_dim or A > model.action_dim:
        raise UserError(
            f"prompt 0 has {S} state and {A} action dimensions; the model takes at most "
            f"{model.state_dim} and {model.action_dim}"
        )
    for number, trajectory in enumerate(checked):
        found = trajectory.observations.shape[1], trajectory.actions.shape[1]
        if found != (S, A):
            raise UserError(
                f"prompt {number} has {found[0]} state and {found[1]} action dimensions, prompt 0 "
                f"has {S} and {A}: give prompts of one task"
            )
    return checked


def _arrays(where: str, trajectory: Trajectory) -> Trajectory:
    """Return a trajectory of at least one step with arrays of float32."""
    if not isinstance(trajectory, Trajectory):
        kind = type(trajectory).__name__
        raise UserError(f"{where} is of type {kind}: give m3dt.tasks.Trajectory")
    names = ("observations", "actions", "rewards")
    observations, actions, rewards = (
        _numbers(f"{where}: '{name}'", getattr(trajectory, name)) for name in names
    )
    shapes = observations.shape, actions.shape, rewards.shape
    sound = tuple(map(len, shapes)) == (2, 2, 1) and len({shape[0] for shape in shapes}) == 1
    if not sound or 0 in (observations.size, actions.size):
        raise UserError(
            f"{where}: observations, actions and rewards have shapes {shapes[0]}, {shapes[1]} and "
            f"{shapes[2]}, expected (steps, states), (steps, actions) and (steps,)"
        )
    return Trajectory(observations, actions, rewards, trajectory.success)


def _numbers(what: str, value: np.ndarray) -> np.ndarray:
    """Return a user's numbers in float32, checked."""
    array = number_array(what, value)
    check_numbers(what, array)
    return array.astype(np.float32)
