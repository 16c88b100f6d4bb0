"""What the environments of all domains share."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from m3dt.tasks.spec import TaskSpec


class TaskEnv(gymnasium.Env):
    """An environment of native widths: float32 observations, actions in [-1, 1], a fixed horizon.

    `info["success"]` tells whether this step succeeded; it is False where a task knows no success.

    A domain implements three methods. `_seed(seed)` restarts the sequence of initial states,
    `_begin()` starts an episode and returns its first observation, and `_advance(action)` returns
    observation, reward, terminated and success.
    """

    metadata = {"render_modes": []}

    def __init__(self, spec: TaskSpec) -> None:
        self.spec_task = spec
        self._steps = 0
        box = gymnasium.spaces.Box
        self.observation_space = box(-np.inf, np.inf, (spec.state_dim,), np.float32)
        self.action_space = box(-1.0, 1.0, (spec.action_dim,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._seed(seed)
        self._steps = 0
        return self._begin().astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, success = self._advance(np.asarray(action))
        self._steps += 1
        truncated = self._steps >= self.spec_task.horizon
        info = {"success": success}
        return observation.astype(np.float32), float(reward), terminated, truncated, info

    def _seed(self, seed: int) -> None:
        raise NotImplementedError

    def _begin(self) -> np.ndarray:
        raise NotImplementedError

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        raise NotImplementedError
