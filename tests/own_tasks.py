"""Tasks of a user's own, as a plugin registers them: wide, with dictionaries, and broken ones."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

import m3dt

HORIZON = 12
STATES, ACTIONS = 45, 10  # both wider than in the 160 tasks
LOW, HIGH = -2.0, 6.0  # of the actions


class Reaching(gymnasium.Env):
    """A reward for actions near a point; observations are a dictionary out of order."""

    observation_space = Dict({"b": Box(-9, 9, (40,)), "a": Box(-9, 9, (5,))})
    action_space = Box(LOW, HIGH, (ACTIONS,))

    def __init__(self, point=1.0):
        self.point = point

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action):
        self.taken = action
        distance = float(np.abs(action - self.point).mean())
        return self._observation(), -distance, False, False, {"is_success": distance < 0.1}

    def _observation(self):
        return {
            "b": self.np_random.uniform(-1, 1, 40).astype(np.float32),
            "a": np.full(5, self.point, np.float32),
        }


class Changing(Reaching):
    """Its observations lose a number at the third step."""

    observation_space = Box(-9, 9, (5,))
    action_space = Box(-1, 1, (2,))

    def reset(self, **given):
        self.steps = 0
        return super().reset(**given)

    def step(self, action):
        self.steps += 1
        return super().step(action)

    def _observation(self):
        return np.zeros(4 if self.steps > 2 else 5, np.float32)


def with_spaces(observations, actions):
    """Return a maker of an environment that has these spaces and nothing else."""

    def make():
        env = gymnasium.Env()
        env.observation_space, env.action_space = observations, actions
        return env

    return make


def best(point):
    native = np.full(ACTIONS, point)
    return lambda observation: 2 * (native - LOW) / (HIGH - LOW) - 1


SQUARE = Box(-1, 1, (2,))
IMAGE = Box(0, 255, (8, 8, 3), np.uint8)
BROKEN = {
    "discrete": with_spaces(SQUARE, Discrete(3)),
    "pictures": with_spaces(Dict({"a": SQUARE, "camera": IMAGE}), SQUARE),
    "boundless": with_spaces(SQUARE, Box(-np.inf, np.inf, (2,))),
    "wrong-width": with_spaces(Box(-1, 1, (3,)), SQUARE),
    "no-environment": lambda: 5,
}

for name, point in {"near": 1.0, "far": 5.0}.items():
    m3dt.register_task(
        m3dt.TaskSpec(name, "reaching", STATES, ACTIONS, HORIZON),
        lambda point=point: Reaching(point),
        policy=best(point),
    )
m3dt.register_task(m3dt.TaskSpec("changing", "odd", 5, 2, HORIZON), Changing)
for name, make in BROKEN.items():
    m3dt.register_task(m3dt.TaskSpec(name, "odd", 2, 2, HORIZON), make)
