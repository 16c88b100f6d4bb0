"""Batched simulations of one task, stepped together by `mujoco.rollout`.

Letters: B simulations, A action dim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from mujoco import rollout

from m3dt.behaviour.learning.physics import View, family_of
from m3dt.behaviour.learning.rewards import REWARDS
from m3dt.behaviour.learning.shaping import EXPLORING_STARTS, SHAPING, TERMINATIONS
from m3dt.behaviour.network import policy_input
from m3dt.tasks import TaskSpec, locomotion, make_env
from m3dt.tasks.dmcontrol import ACTION_REPEAT, model_xml

_NUM_STARTS = 512  # initial states drawn from the real environment
_CHUNK = 16  # simulations per work item of a thread

ExploringStart = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class BatchedStep:
    """The result of one step: policy inputs (B, input_dim), rewards (B,), terminated (B,) bool."""

    inputs: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray


class Simulation(ABC):
    """B simulations of one task; the caller decides when episodes start."""

    rollouts: Rollouts

    @abstractmethod
    def begin(self, which: np.ndarray) -> np.ndarray:
        """Start episodes in the simulations with these indices; return their policy inputs."""

    @abstractmethod
    def step(self, actions: np.ndarray) -> BatchedStep:
        """Step all simulations with actions in [-1, 1], (B, A)."""


def simulate(spec: TaskSpec, num: int, threads: int, seed: int, shaped: bool = False) -> Simulation:
    """Return `num` simulations of a DMControl or locomotion task, stepped by some threads.

    Every locomotion episode draws a new goal. Shaped simulations add the task's shaping rewards and
    exploring starts, if it has any.
    """
    rng = np.random.default_rng(seed)
    if spec.domain == "dmcontrol":
        return DMControlSimulation(spec, num, threads, rng, shaped)
    return LocomotionSimulation(spec, num, threads, rng)


class Rollouts:
    """The states of B simulations, and the threads that step them."""

    def __init__(self, model: mujoco.MjModel, num: int, threads: int) -> None:
        self.model = model
        self.qpos = np.zeros((num, model.nq))
        self.qvel = np.zeros((num, model.nv))
        self._pool = rollout.Rollout(nthread=threads)
        self._data = [mujoco.MjData(model) for _ in range(threads)]
        self._gravity = model.opt.gravity.copy()
        self._size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        assert self._size == 1 + model.nq + model.nv  # time, qpos, qvel, and nothing else

    def scale_gravity(self, fraction: float) -> None:
        """Set gravity to a fraction of its normal strength."""
        self.model.opt.gravity[:] = fraction * self._gravity

    def run(self, actions: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Simulate some steps with constant actions; `self.qpos` and `self.qvel` do not change.

        Returns:
            qpos (B, steps, nq) and qvel (B, steps, nv) after each step, and the sensors computed at
            the start of each step, (B, steps, num_sensors).
        """
        nq = self.model.nq
        start = np.hstack((np.zeros((len(self.qpos), 1)), self.qpos, self.qvel))
        control = np.repeat(actions[:, None].astype(np.float64), steps, axis=1)
        arguments = (self.model, self._data, start, control)
        states, sensors = self._pool.rollout(*arguments, chunk_size=_CHUNK)
        return states[:, :, 1 : 1 + nq], states[:, :, 1 + nq :], sensors


class DMControlSimulation(Simulation):
    """B simulations of a DMControl task; their initial states come from the real environment."""

    def __init__(
        self, spec: TaskSpec, num: int, threads: int, rng: np.random.Generator, shaped: bool
    ) -> None:
        self._spec = spec
        self._rng = rng
        self._family = family_of(spec.env_id)
        self._rewards = [REWARDS[spec.env_id]]
        if shaped and spec.env_id in SHAPING:
            self._rewards.append(SHAPING[spec.env_id])
        env: Any = make_env(spec.name, int(rng.integers(2**31)))
        explore = EXPLORING_STARTS.get(spec.env_id) if shaped else None
        self._terminates = TERMINATIONS.get(spec.env_id) if shaped else None
        self._starts = self._draw_starts(env, explore)
        self._exploring = np.arange(num) % 2 == 1 if explore else np.zeros(num, bool)
        self._substeps = round(env._env.control_timestep() / env.physics.timestep())
        self.rollouts = Rollouts(self._model_with_sensors(spec, env.physics), num, threads)
        self._target = np.zeros((num, 3))

    def _draw_starts(self, env: Any, explore: ExploringStart | None) -> list[np.ndarray]:
        """Return qpos, qvel, targets and inputs of the task's starts, then of exploring ones."""
        starts = []
        for i in range(2 * _NUM_STARTS if explore else _NUM_STARTS):
            observation, _ = env.reset()
            if explore is not None and i >= _NUM_STARTS:
                observation = env.place(*explore(self._rng))
            data, target = env.physics.data, np.array(self._family.target(env.physics))
            starts.append((data.qpos.copy(), data.qvel.copy(), target, self._input(observation)))
        return [np.array(part) for part in zip(*starts, strict=True)]

    def _model_with_sensors(self, spec: TaskSpec, physics: Any) -> mujoco.MjModel:
        """Compile the task's model again with the sensors that observations and rewards read."""
        xml, included = model_xml(spec.env_id)
        description = mujoco.MjSpec.from_string(xml, include=included)
        for sensor in self._family.sensors:
            description.add_sensor(
                name=sensor.name,
                type=sensor.kind,
                objtype=sensor.object_type,
                objname=sensor.object_name,
            )
        model = description.compile()
        # Besides targets, tasks change these two fields of their models.
        model.dof_damping[:] = physics.model.dof_damping
        model.geom_size[:] = physics.model.geom_size
        return model

    def begin(self, which: np.ndarray) -> np.ndarray:
        chosen = self._rng.integers(0, _NUM_STARTS, len(which))
        chosen += _NUM_STARTS * self._exploring[which]
        qpos, qvel, target, inputs = (part[chosen] for part in self._starts)
        self.rollouts.qpos[which], self.rollouts.qvel[which] = qpos, qvel
        self._target[which] = target
        return inputs

    def step(self, actions: np.ndarray) -> BatchedStep:
        n = self._substeps
        # One extra step, because sensors describe the state at the start of a step.
        qpos, qvel, sensors = self.rollouts.run(actions, ACTION_REPEAT * n + 1)
        rewards = np.zeros(len(actions))
        for end in range(n, ACTION_REPEAT * n + 1, n):
            view = View(
                self.rollouts.model,
                qpos[:, end - 1],
                qvel[:, end - 1],
                sensors[:, end],
                sensors[:, end - 1],
                actions,
                self._target,
            )
            for reward in self._rewards:
                rewards += reward(view)
        self.rollouts.qpos, self.rollouts.qvel = view.qpos.copy(), view.qvel.copy()
        terminated = np.zeros(len(actions), bool)
        if self._terminates is not None:
            terminated = self._terminates(view) & self._exploring
        return BatchedStep(self._input(self._family.observe(view)), rewards, terminated)

    def _input(self, observations: np.ndarray) -> np.ndarray:
        return policy_input(self._spec, observations, np.zeros(()))


class LocomotionSimulation(Simulation):
    """B simulations of cheetah-vel or ant-dir, each with its own goal."""

    def __init__(self, spec: TaskSpec, num: int, threads: int, rng: np.random.Generator) -> None:
        self._spec = spec
        self._ant = spec.domain == "ant-dir"
        self._rng = rng
        self.rollouts = Rollouts(locomotion.load_model(spec.env_id), num, threads)
        self._position = np.zeros((num, 2))  # (x, y) before the step; the velocity is its change
        self.goals = np.zeros(num)

    def begin(self, which: np.ndarray) -> np.ndarray:
        rollouts, noise = self.rollouts, locomotion.NOISE
        model, count = rollouts.model, len(which)
        rollouts.qpos[which] = model.qpos0 + self._rng.uniform(-noise, noise, (count, model.nq))
        rollouts.qvel[which] = noise * self._rng.standard_normal((count, model.nv))
        if self._ant:
            quaternion = rollouts.qpos[which, 3:7]
            quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
            rollouts.qpos[which, 3:7] = quaternion
        self._position[which] = rollouts.qpos[which, :2]
        self.goals[which] = self._rng.uniform(0, 2 * np.pi if self._ant else 3.0, count)
        return self._inputs()[which]

    def step(self, actions: np.ndarray) -> BatchedStep:
        qpos, qvel, _ = self.rollouts.run(actions, locomotion.FRAME_SKIP)
        # The real ant's torso position comes from the integrator's last stage: off by a millimetre.
        position = qpos[:, -1, :2].copy()
        velocity = (position - self._position) / locomotion.STEP_SECONDS
        self._position = position
        self.rollouts.qpos, self.rollouts.qvel = qpos[:, -1].copy(), qvel[:, -1].copy()
        if self._ant:
            rewards = locomotion.ant_reward(velocity, actions, self.goals)
            terminated = ~locomotion.ant_is_healthy(qpos[:, -1], qvel[:, -1])
        else:
            rewards = locomotion.cheetah_reward(velocity[:, 0], actions, self.goals)
            terminated = np.zeros(len(actions), bool)
        return BatchedStep(self._inputs(), rewards, terminated)

    def _inputs(self) -> np.ndarray:
        skip = 2 if self._ant else 1
        state = np.hstack((self.rollouts.qpos[:, skip:], self.rollouts.qvel))
        return policy_input(self._spec, state, self.goals)
