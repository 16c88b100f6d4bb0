"""Tasks of a user's own, as nobody should write them: odd spaces, environments and policies."""

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from hypothesis import strategies as st

from m3dt.tasks import TaskSpec

HORIZON = 6
FAULTS = (
    "none", "nan observation", "huge observation", "narrow observation", "no observation",
    "nan reward", "text reward", "raises", "short tuple", "ends at once", "no info",
)  # fmt: skip


@dataclass
class Drawn:
    """A task: its specification, its environment's maker, its policy."""

    spec: TaskSpec
    make_env: Any
    policy: Any


class Odd(gymnasium.Env):
    """An environment that does something odd at one step."""

    def __init__(self, observations, actions, fault, at):
        self.observation_space, self.action_space = observations, actions
        self.fault, self.at = fault, at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        if self.at == 0 and self.fault == "raises":
            raise ValueError("broken\nat once")
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        now = self.steps >= self.at
        reward = float(self.np_random.normal())
        fault = self.fault if now else "none"
        if fault == "raises":
            raise KeyError("broken")
        if fault == "short tuple":
            return self._observation(), reward
        reward = {"nan reward": math.nan, "text reward": "much"}.get(fault, reward)
        info = None if fault == "no info" else {"success": self.steps % 2}
        return self._observation(), reward, fault == "ends at once", False, info

    def _observation(self):
        sample = self.observation_space.sample()
        now = self.steps >= self.at
        if not now or not isinstance(sample, np.ndarray):
            return sample
        if self.fault == "nan observation":
            return np.full(sample.shape, np.nan, np.float32)
        if self.fault == "huge observation":
            return np.full(sample.shape, 1e30, np.float32)
        if self.fault == "narrow observation":
            return sample.ravel()[:-1]
        return None if self.fault == "no observation" else sample


def _mostly(data, usual, *others):
    """Draw a usual value four times out of five."""
    return usual if data.draw(st.integers(0, 9)) > 1 else data.draw(st.sampled_from(others))


def _box(data, bounded):
    shape = data.draw(st.sampled_from([(1,), (3,), (2, 2), (45,)]))
    low, high = data.draw(st.sampled_from([(-1, 1), (-3, 5), (0, 1)]))
    if not bounded and data.draw(st.integers(0, 9)) == 0:
        low, high = -np.inf, np.inf
    return Box(low, high, shape, np.float32)


def _space(data, bounded):
    kind = data.draw(st.sampled_from(["box"] * 6 + ["dict", "tuple", "discrete", "image", "bits"]))
    if kind == "dict":
        return Dict({"b": _box(data, bounded), "a": _box(data, bounded)})
    if kind == "tuple":
        return Tuple((_box(data, bounded), _box(data, bounded)))
    others = {
        "discrete": Discrete(3),
        "image": Box(0, 255, (8, 8, 3), np.uint8),
        "bits": MultiBinary(4),
    }
    return others.get(kind) or _box(data, bounded)


def _width(space):
    try:
        return int(gymnasium.spaces.flatdim(space))
    except NotImplementedError:
        return 1


def task(data):
    """Return a drawn task. One in a few is sound."""
    observations, actions = _space(data, True), _space(data, False)
    fault, at = _mostly(data, "none", *FAULTS), data.draw(st.integers(0, HORIZON))
    states, acts = _width(observations), _width(actions)
    scores = ((0.0, math.nan), lambda r, s: r, lambda r, s: math.nan, lambda r, s: 1 / 0)
    policies = {
        "none": None,
        "zero": lambda observation: np.zeros(acts),
        "wide": lambda observation: np.zeros(acts + 1),
        "nan": lambda observation: np.full(acts, np.nan),
        "raises": lambda observation: observation["x"],
        "huge": lambda observation: np.full(acts, 1e9),
    }
    spec = TaskSpec(
        name=_mostly(data, "drawn", "a.b_c-1", "", "x/y", "reach-v2", "gym:x"),
        domain=_mostly(data, "odd", "metaworld", "another", ""),
        state_dim=states + _mostly(data, 0, 1),
        action_dim=acts,
        horizon=HORIZON,
        target_return=_mostly(data, math.nan, 3.0, math.inf),
        return_scale=_mostly(data, math.nan, 2.0, 0.0),
        score=_mostly(data, None, (-5.0, 5.0), *scores),
    )
    policy = policies[_mostly(data, "zero", *policies)]
    return Drawn(spec, lambda: Odd(observations, actions, fault, at), policy)
