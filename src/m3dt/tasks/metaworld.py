"""The 50 Meta-World tasks, with a random and visible goal at every reset."""

import copy
import functools
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from m3dt.tasks.envs import TaskEnv
from m3dt.tasks.spec import TaskSpec

REWARD_FUNCTION = "v2"


class MetaWorldEnv(TaskEnv):
    """A Sawyer task: 39 observations, 4 actions, 500 steps, reward 0 to 10 per step.

    The observation holds hand, gripper and two objects, now and one step earlier, and the goal.
    `info["success"]` is True if Meta-World's success measure exceeds 1e-8.
    """

    camera = "corner4"

    def __init__(self, spec: TaskSpec, seed: int = 0) -> None:
        super().__init__(spec)
        sawyer = ALL_V3_ENVIRONMENTS[spec.env_id]
        compiled_once = type(sawyer.__name__, (_CompiledOnce, sawyer), {})
        env = compiled_once(reward_function_version=REWARD_FUNCTION)
        # Make the goal visible, and drop the cached observation space, which lacks it.
        env._partially_observable = False
        env.__dict__.pop("sawyer_observation_space", None)
        # Draw a new layout at every reset, from the environment's own generator.
        env._freeze_rand_vec = False
        env.seeded_rand_vec = True
        env._set_task_called = True
        setattr(env, "touching_object", lambda geom: _touching(env, geom))  # noqa: B010
        env.seed(seed)
        self._env = env

    def _seed(self, seed: int) -> None:
        self._env.seed(seed)

    def _begin(self) -> np.ndarray:
        return self._env.reset()[0]

    def render(self) -> np.ndarray:
        """Return a frame, turned by 180 degrees: Meta-World's corner cameras hang upside down."""
        return super().render()[::-1, ::-1]

    def _simulation(self) -> tuple[Any, Any]:
        return self._env.model, self._env.data

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        action = np.clip(action.astype(np.float32), -1.0, 1.0)
        observation, reward, _, _, info = self._env.step(action)
        return observation, reward, False, float(info["success"]) > 1e-8


class _CompiledOnce:
    """Starts each simulation of a task from a copy of one compiled model.

    To compile takes 0.1 s, as long as 300 steps; to copy takes a tenth of that.
    """

    fullpath: str

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = copy.copy(_compile(self.fullpath))
        return model, mujoco.MjData(model)


@functools.lru_cache(maxsize=4)
def _compile(path: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(path)


def _touching(env: Any, geom: int) -> bool:
    """Return whether both finger pads press on a geom, as `SawyerXYZEnv.touching_object` does.

    The original loops over all contacts in Python, which took 40 % of a pick-place step.
    """
    contact = env.data.contact
    geom1, geom2 = contact.geom1, contact.geom2
    on_geom = (geom1 == geom) | (geom2 == geom)
    for pad in ("leftpad_geom", "rightpad_geom"):
        pad_id = env.data.geom(pad).id
        on_both = on_geom & ((geom1 == pad_id) | (geom2 == pad_id))
        if not on_both.any():
            return False
        if env.data.efc_force[contact.efc_address[on_both]].sum() <= 0:
            return False
    return True
