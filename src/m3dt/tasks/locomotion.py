"""The 80 locomotion tasks: a half-cheetah runs at a target speed, an ant in a target direction.

The observation does not contain the goal. The models are gymnasium's. Steps are plain `mj_step`
calls, so body positions lag behind the joints by up to one simulation step of 0.01 s, as in the
environments that the paper used.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from m3dt.tasks.envs import TaskEnv
from m3dt.tasks.spec import TaskSpec

FRAME_SKIP = 5
STEP_SECONDS = 0.05
NOISE = 0.1  # scale of the initial state's noise
_CONTROL_COST = {"cheetah-vel": 0.05, "ant-dir": 0.5}
_ALIVE_BONUS = 1.0
# MuJoCo counts non-finite states here and then resets the simulation.
_DIVERGED = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
    mujoco.mjtWarning.mjWARN_BADCTRL,
)
_HEALTHY_HEIGHT = (0.2, 1.0)  # m, range of an ant's torso


def load_model(env_id: str) -> mujoco.MjModel:
    """Load gymnasium's `half_cheetah` or `ant` model."""
    gymnasium = find_spec("gymnasium")  # importing its MuJoCo module would open a display
    assert gymnasium is not None and gymnasium.origin is not None
    assets = Path(gymnasium.origin).parent / "envs" / "mujoco" / "assets"
    return mujoco.MjModel.from_xml_path(str(assets / f"{env_id}.xml"))


def cheetah_reward(velocity: np.ndarray, action: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the reward -|v - goal| - 0.05 |a|^2 of running at a velocity, (...).

    Velocity and goal are in m/s, (...); the action is (..., 6).
    """
    return -np.abs(velocity - goal) - _CONTROL_COST["cheetah-vel"] * (action**2).sum(-1)


def ant_reward(velocity: np.ndarray, action: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the reward v . (cos goal, sin goal) - 0.5 |a|^2 + 1 of running in a direction, (...).

    The torso's horizontal velocity is in m/s, (..., 2), the goal in radians, (...); the action is
    (..., 8).
    """
    along = velocity[..., 0] * np.cos(goal) + velocity[..., 1] * np.sin(goal)
    return along - _CONTROL_COST["ant-dir"] * (action**2).sum(-1) + _ALIVE_BONUS


def ant_is_healthy(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    """Return whether an ant is upright, (...) bool, from its joints, (..., 15) and (..., 14)."""
    low, high = _HEALTHY_HEIGHT
    finite = np.isfinite(qpos).all(-1) & np.isfinite(qvel).all(-1)
    return finite & (qpos[..., 2] >= low) & (qpos[..., 2] <= high)


class LocomotionEnv(TaskEnv):
    """A cheetah-vel (20 observations) or ant-dir task (27 observations): 200 steps of 0.05 s."""

    camera = "track"

    def __init__(self, spec: TaskSpec, seed: int = 0) -> None:
        super().__init__(spec)
        assert spec.goal is not None
        self.model = load_model(spec.env_id)
        self.data = mujoco.MjData(self.model)
        self._ant = spec.domain == "ant-dir"
        self._goal = np.array(spec.goal)
        self._seed(seed)

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Place the robot and return the observation, (S,).

        Joint positions are in m and radians, (9,) for the cheetah and (15,) for the ant; velocities
        are (9,) or (14,).
        """
        self._place(qpos, qvel)
        return self._observation().astype(np.float32)

    def _place(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = qpos
        self.data.qvel[:] = qvel
        mujoco.mj_forward(self.model, self.data)

    def _seed(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def _begin(self) -> np.ndarray:
        noise = self._rng.uniform(-NOISE, NOISE, self.model.nq)
        velocity = NOISE * self._rng.standard_normal(self.model.nv)
        self._place(self.model.qpos0 + noise, velocity)
        return self._observation()

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        data = self.data
        action = action.astype(np.float64)
        before = self._position()
        data.ctrl[:] = action  # MuJoCo clamps it to [-1, 1]; the control cost does not
        mujoco.mj_step(self.model, data, FRAME_SKIP)
        diverged = any(data.warning[kind].number for kind in _DIVERGED)
        velocity = (self._position() - before) / STEP_SECONDS
        if self._ant:
            reward = ant_reward(velocity, action, self._goal)
            terminated = not ant_is_healthy(data.qpos, data.qvel) or diverged
        else:
            reward = cheetah_reward(velocity, action, self._goal)
            terminated = diverged
        return self._observation(), 0.0 if diverged else float(reward), terminated, False

    def _simulation(self) -> tuple[Any, Any]:
        return self.model, self.data

    def _position(self) -> np.ndarray:
        """Return the position whose velocity counts: the ant's torso, the cheetah's root joint."""
        return self.data.body("torso").xpos[:2].copy() if self._ant else self.data.qpos[0].copy()

    def _observation(self) -> np.ndarray:
        data = self.data
        if self._ant:
            return np.concatenate((data.qpos[2:], data.qvel))
        return np.concatenate((data.qpos[1:], data.qvel, data.body("torso").xpos))
