"""The 30 DMControl tasks: 19 from dm_control's suite and 11 from `dmcontrol_custom`."""

from importlib import import_module
from typing import Any

import numpy as np
from dm_control import suite
from dm_control.mujoco import Physics
from dm_control.rl.control import Environment, PhysicsError
from dm_control.suite.common import ASSETS

from m3dt.tasks.dmcontrol_custom import CUSTOM, three_link_reacher
from m3dt.tasks.envs import TaskEnv
from m3dt.tasks.spec import TaskSpec

ACTION_REPEAT = 2


class DMControlEnv(TaskEnv):
    """A DMControl task: 500 steps of two control steps each, reward 0 to 2 per step.

    The observation concatenates the suite's entries in their order. An episode ends early only if
    the simulation diverges; the reward of that step is 0.
    """

    camera = 0

    def __init__(self, spec: TaskSpec, seed: int = 0) -> None:
        super().__init__(spec)
        self._env = build(spec.env_id)
        self._seed(seed)

    @property
    def physics(self) -> Physics:
        """State and model of the simulation."""
        return self._env.physics

    def place(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Set the joints within the current episode and return the observation, (S,)."""
        with self.physics.reset_context():
            self.physics.data.qpos[:] = qpos
            self.physics.data.qvel[:] = qvel
        return flatten(self._env.task.get_observation(self.physics)).astype(np.float32)

    def _seed(self, seed: int) -> None:
        # RandomState takes 32 bits; gymnasium allows seeds of any size.
        words = seed if seed < 2**32 else np.random.SeedSequence(seed).generate_state(8)
        self._env.task._random = np.random.RandomState(words)

    def _begin(self) -> np.ndarray:
        self._last = flatten(self._env.reset().observation)
        return self._last

    def _simulation(self) -> tuple[Any, Any]:
        return self.physics.model.ptr, self.physics.data.ptr

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        action = np.clip(action.astype(np.float64), -1.0, 1.0)
        reward = 0.0
        try:
            for _ in range(ACTION_REPEAT):
                step = self._env.step(action)
                reward += step.reward
        except PhysicsError:
            return self._last, 0.0, True, False
        self._last = flatten(step.observation)
        return self._last, reward, False, False


def build(env_id: str) -> Environment:
    """Build the dm_control environment of a task, such as `walker-walk` or `cup-spin`."""
    if env_id in CUSTOM:
        return CUSTOM[env_id]()
    domain, task = env_id.split("-", 1)
    return suite.load("ball_in_cup" if domain == "cup" else domain, task.replace("-", "_"))


def flatten(observation: dict[str, np.ndarray]) -> np.ndarray:
    """Concatenate the entries of an observation, (S,)."""
    return np.concatenate([np.ravel(entry) for entry in observation.values()])


def model_xml(env_id: str) -> tuple[str, dict[str, bytes]]:
    """Return the MuJoCo XML of a task and the files that it includes, by name."""
    if env_id.startswith("reacher-three"):
        return three_link_reacher().decode(), ASSETS
    domain = env_id.split("-", 1)[0]
    module = import_module(f"dm_control.suite.{'ball_in_cup' if domain == 'cup' else domain}")
    xml, assets = module.get_model_and_assets()
    return xml if isinstance(xml, str) else xml.decode(), assets
