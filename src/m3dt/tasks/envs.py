"""The environments of all tasks: their base class, one function that builds any, and episodes."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from m3dt.tasks.registration import get_task, own_task
from m3dt.tasks.rendering import check_backend_name, check_rendering
from m3dt.tasks.spec import TaskSpec
from m3dt.utils.numbers import whole_number


class TaskEnv(gymnasium.Env):
    """An environment with the task's own widths, float32 observations and a fixed horizon.

    Actions lie in [-1, 1]. `info["success"]` says whether this step was a success; it is always
    False in tasks that do not define success.

    Subclasses, one per domain, implement four methods: `_seed` restarts the sequence of initial
    states, `_begin` starts an episode and returns its first observation, `_advance` applies an
    action and returns observation, reward, terminated and success, and `_simulation` returns
    MuJoCo's model and data.
    """

    metadata = {"render_modes": ["rgb_array"]}
    render_mode: str | None = "rgb_array"
    frame_size = (240, 320)
    """Height and width of a rendered frame."""
    camera: int | str = -1
    """MuJoCo camera; -1 is the free camera, which shows the whole model."""

    def __init__(self, spec: TaskSpec) -> None:
        self.task_spec = spec
        self._steps = 0
        self._renderer: Any = None
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
        truncated = self._steps >= self.task_spec.horizon
        observation = observation.astype(np.float32)
        return observation, float(reward), terminated, truncated, {"success": success}

    def render(self) -> np.ndarray:
        """Return a frame of the current state, (height, width, 3) uint8.

        Raises:
            UserError: No rendering back end that works was chosen before the first import of m3dt.
        """
        if self._renderer is None:
            check_rendering()
        import mujoco

        model, data = self._simulation()
        if self._renderer is None:
            model.vis.global_.offheight = max(model.vis.global_.offheight, self.frame_size[0])
            model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.frame_size[1])
            self._renderer = mujoco.Renderer(model, *self.frame_size)
        self._renderer.update_scene(data, self.camera)
        return self._renderer.render()

    def close(self) -> None:
        """Free the renderer, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _seed(self, seed: int) -> None:
        raise NotImplementedError

    def _begin(self) -> np.ndarray:
        raise NotImplementedError

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        raise NotImplementedError

    def _simulation(self) -> tuple[Any, Any]:
        raise NotImplementedError


def make_env(name: str, seed: int = 0) -> TaskEnv:
    """Build the environment of a task, such as `reach-v2`, with the task's own widths.

    Environments of tasks that are not of the 160 are wrapped: flat observations, actions in
    [-1, 1]. DMControl environments have a `physics` attribute, locomotion environments a method
    `set_state(qpos, qvel)`. The seed starts a sequence of initial states; `env.reset(seed=...)`
    starts another one. The simulator is imported here: reading data and training never load it.

    Raises:
        UserError: The task is unknown, the seed is no whole number, the environment is not as it
            was registered, or MUJOCO_GL names no rendering back end.
    """
    spec, seed = get_task(name), whole_number("seed", seed)
    check_backend_name()
    own = own_task(name)
    if own is not None:
        from m3dt.tasks.gym_env import GymEnv

        return GymEnv(spec, own.make_env, seed)
    if spec.domain == "metaworld":
        from m3dt.tasks.metaworld import MetaWorldEnv

        return MetaWorldEnv(spec, seed)
    if spec.domain == "dmcontrol":
        from m3dt.tasks.dmcontrol import DMControlEnv

        return DMControlEnv(spec, seed)
    from m3dt.tasks.locomotion import LocomotionEnv

    return LocomotionEnv(spec, seed)


@dataclass(frozen=True)
class Trajectory:
    """One recorded episode: observations (T, S), actions (T, A), rewards (T,).

    `success` is None if the source did not record it.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: bool | None = None

    @property
    def episode_return(self) -> float:
        """Sum of the rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    def __repr__(self) -> str:
        return f"Trajectory(steps={len(self.rewards)}, return={self.episode_return:.1f})"
