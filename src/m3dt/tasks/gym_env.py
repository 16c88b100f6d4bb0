"""Any gymnasium environment with continuous observations and actions as an m3dt environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from m3dt.tasks.envs import TaskEnv
from m3dt.tasks.spec import TaskSpec
from m3dt.utils.class_paths import import_named
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError, others_code


class GymEnv(TaskEnv):
    """A gymnasium environment: flat float32 observations, actions rescaled from [-1, 1].

    Raises:
        UserError: Its spaces are not those of the specification, or cannot be a task's.
    """

    def __init__(
        self, spec: TaskSpec, make_env: Callable[[], gymnasium.Env[Any, Any]], seed: int = 0
    ) -> None:
        super().__init__(spec)
        with others_code(f"task '{spec.name}': make_env"):
            self._env = env = make_env()
        if not isinstance(env, gymnasium.Env):
            raise UserError(
                f"task '{spec.name}': make_env returned a {type(env).__name__}, not a "
                "gymnasium.Env."
            )
        found = flat_widths(spec.name, env)
        if found != (spec.state_dim, spec.action_dim):
            raise UserError(
                f"task '{spec.name}': registered with {counted(spec.state_dim, 'state')} and "
                f"{counted(spec.action_dim, 'action')}, but its environment has "
                f"{found[0]} and {found[1]}."
            )
        actions = spaces.flatten_space(env.action_space)
        assert isinstance(actions, spaces.Box)
        self._low, self._high = actions.low.astype(np.float64), actions.high.astype(np.float64)
        self._next_seed: int | None = seed

    def render(self) -> np.ndarray:
        """Return a frame of the current state, (height, width, 3) uint8.

        Raises:
            UserError: The environment was not made to return frames.
        """
        if self._env.render_mode != "rgb_array":
            raise UserError(
                f"task '{self.task_spec.name}': its environment returns no frames. Let make_env "
                "pass render_mode='rgb_array'."
            )
        with others_code(self._environment):
            frame: Any = self._env.render()
            return np.asarray(frame, np.uint8)

    def close(self) -> None:
        self._env.close()

    def _seed(self, seed: int) -> None:
        self._next_seed = seed

    def _begin(self) -> np.ndarray:
        with others_code(self._environment):
            observation, _ = self._env.reset(seed=self._next_seed)
        self._next_seed = None
        return self._flat(observation)

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        share = (np.clip(action.astype(np.float64), -1.0, 1.0) + 1) / 2
        native = np.clip(self._low + share * (self._high - self._low), self._low, self._high)
        space = self._env.action_space
        flat = native.astype(spaces.flatten_space(space).dtype)
        with others_code(self._environment):
            result = self._env.step(spaces.unflatten(space, flat))
            observation, reward, terminated, truncated, info = result
            success = bool(info.get("success", info.get("is_success", False)))
            # An end that the environment declares for itself ends the episode here, too.
            outcome = float(reward), bool(terminated or truncated), success
        return self._flat(observation), *outcome

    @property
    def _environment(self) -> str:
        return f"task '{self.task_spec.name}': its environment"

    def _flat(self, observation: Any) -> np.ndarray:
        """Return an observation as one vector, (S,).

        Raises:
            UserError: It is not of the environment's observation space.
        """
        try:
            flat = np.asarray(spaces.flatten(self._env.observation_space, observation))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._changed(repr(error)) from None
        if flat.shape != (self.task_spec.state_dim,):
            raise self._changed(counted(flat.shape[0], "number")) from None
        return flat

    def _changed(self, found: str) -> UserError:
        return UserError(
            f"task '{self.task_spec.name}': its environment returned an observation that is not "
            f"of its observation space of {counted(self.task_spec.state_dim, 'number')}: {found}. "
            "Spaces must not change."
        )


def flat_widths(task: str, env: gymnasium.Env[Any, Any]) -> tuple[int, int]:
    """Return the widths of an environment's flat observations and actions.

    Raises:
        UserError: A space is discrete, an image or without bounds for actions.
    """
    observed = _width(task, "observations", env.observation_space)
    acted = _width(task, "actions", env.action_space)
    box = spaces.flatten_space(env.action_space)
    assert isinstance(box, spaces.Box)
    if not (np.isfinite(box.low).all() and np.isfinite(box.high).all()):
        raise UserError(
            f"task '{task}': its actions have no finite bounds, so that they cannot be rescaled "
            "to [-1, 1]. Wrap it in gymnasium.wrappers.RescaleAction or give its Box bounds."
        )
    return observed, acted


def _width(task: str, what: str, space: spaces.Space[Any]) -> int:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else space.spaces
        return sum(_width(task, what, part) for part in parts)
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1:
        raise UserError(
            f"task '{task}': its {what} are images, {space.shape} of uint8. m3dt learns from "
            "states: give vectors."
        )
    if not isinstance(space, spaces.Box):
        raise UserError(
            f"task '{task}': its {what} are {type(space).__name__}. m3dt learns continuous "
            "control: they must be a Box, or a Dict or Tuple of Boxes."
        )
    return int(np.prod(space.shape))


def gymnasium_task(env_id: str) -> tuple[TaskSpec, Callable[[], gymnasium.Env[Any, Any]]]:
    """Return the task of a registered gymnasium id, whose returns and score follow from data.

    Raises:
        UserError: There is no such id or module, or its environment cannot be a task.
    """
    name = f"gym:{env_id}"
    module, colon, _ = env_id.partition(":")
    if colon:
        import_named(module, f"task '{name}': {module}")  # also from the working directory
    try:
        env = gymnasium.make(env_id)
    except Exception as error:  # what an environment needs and lacks can raise anything
        raise UserError(
            f"task '{name}': gymnasium cannot make it: {type(error).__name__}: {error}"
        ) from None
    states, actions = flat_widths(name, env)
    horizon = env.spec.max_episode_steps if env.spec else None
    # Not every class takes a render mode, None neither.
    draws = "rgb_array" in env.metadata.get("render_modes", ())
    more: dict[str, Any] = {"render_mode": "rgb_array"} if draws else {}
    env.close()
    if not horizon:
        raise UserError(
            f"task '{name}': it has no max_episode_steps. Register it with m3dt.register_task and "
            "a horizon."
        )
    spec = TaskSpec(name, "gym", states, actions, horizon, env_id=env_id)
    return spec, lambda: gymnasium.make(env_id, **more)
