"""Batched simulations with the environment interface of stable-baselines3."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import VecEnv

from m3dt.behaviour.learning.simulation import simulate
from m3dt.behaviour.network import input_dim
from m3dt.tasks import TaskSpec


class SimulatedVecEnv(VecEnv):
    """Simulations of one task as a vectorised environment.

    Episodes are truncated at the task's horizon. The first episodes start at random step counts, so
    that the simulations do not all end at once.
    """

    def __init__(self, spec: TaskSpec, num: int, seed: int) -> None:
        self.simulation = simulate(spec, num, 1, seed, shaped=True)
        self._horizon = spec.horizon
        self._rng = np.random.default_rng((seed, 1))
        self._steps: np.ndarray = np.zeros(num, int)
        observations = Box(-np.inf, np.inf, (input_dim(spec),), np.float32)
        super().__init__(num, observations, Box(-1.0, 1.0, (spec.action_dim,), np.float32))

    def reset(self) -> np.ndarray:
        self._steps = np.asarray(self._rng.integers(0, self._horizon, self.num_envs))
        return self.simulation.begin(np.arange(self.num_envs)).astype(np.float32)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        step = self.simulation.step(self._actions)
        inputs = step.inputs.astype(np.float32)
        self._steps += 1
        truncated = self._steps >= self._horizon
        done = truncated | step.terminated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = np.flatnonzero(done)
        if len(ended):
            for i in ended:
                infos[i] = {
                    "terminal_observation": inputs[i].copy(),
                    "TimeLimit.truncated": bool(truncated[i] and not step.terminated[i]),
                }
            inputs[ended] = self.simulation.begin(ended)
            self._steps[ended] = 0
        return inputs, step.rewards.astype(np.float32), done, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kw: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs
