"""Behaviour that fills a dataset from random play to near-expert skill, as SAC replay does.

Meta-World's scripted policies are spoilt in three ways: a chance of a random action at every step,
Gaussian noise on the scripted action, and phases of random actions from which the script recovers.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np

from m3dt.data.format import BEHAVIOUR, NUM_PROMPTS, Trajectory
from m3dt.tasks import TaskSpec, make_env

_PHASE_STEPS = (5, 40)  # length of a phase of random actions, uniform
_IRREGULAR = {"peg-insert-side-v3": "SawyerPegInsertionSideV3Policy"}


@dataclass(frozen=True)
class Noise:
    """How a scripted policy is spoilt."""

    random_chance: float = 0.0
    gaussian_std: float = 0.0
    num_phases: int = 0


# From random to near-expert; a task's trajectories are spread evenly over the rungs. Gaussian noise
# keeps the mean action right in states the script alone never visits, so that most rungs teach
# recovery; it also stops a learner from merely repeating the action before.
LADDER = (
    Noise(random_chance=1.0),
    Noise(random_chance=0.75),
    Noise(random_chance=0.5, num_phases=1),
    Noise(random_chance=0.3, num_phases=1),
    Noise(gaussian_std=0.7, num_phases=2),
    Noise(gaussian_std=0.6, num_phases=3),
    Noise(gaussian_std=0.5, num_phases=4),
    Noise(gaussian_std=0.4, num_phases=4),
    Noise(gaussian_std=0.4, num_phases=2),
    Noise(gaussian_std=0.3, num_phases=3),
    Noise(gaussian_std=0.2, num_phases=2),
    Noise(),
)


class Policy(Protocol):
    """Anything that maps an observation to an action."""

    def get_action(self, observation: np.ndarray) -> np.ndarray: ...


def scripted_policy(spec: TaskSpec) -> Policy:
    """Return Meta-World's scripted policy of a task."""
    import metaworld.policies

    words = spec.env_id.removesuffix("-v3").split("-")
    camel = "Sawyer" + "".join(word.capitalize() for word in words) + "V3Policy"
    return getattr(metaworld.policies, _IRREGULAR.get(spec.env_id, camel))()


def play(
    env: gymnasium.Env,
    policy: Policy,
    noise: Noise,
    rng: np.random.Generator,
    seed: int,
) -> Trajectory:
    """Play one episode and record it.

    Args:
        env: The task's environment.
        policy: The scripted policy.
        noise: How it is spoilt.
        rng: Source of all noise.
        seed: Seed of the initial state.
    """
    observation, _ = env.reset(seed=seed)
    shape = env.action_space.shape
    assert shape is not None
    horizon = env.unwrapped.spec_task.horizon  # type: ignore[attr-defined]
    in_phase = _phases(noise.num_phases, horizon, rng)
    observations, actions, rewards = [], [], []
    success = False
    for t in range(horizon):
        if in_phase[t] or rng.random() < noise.random_chance:
            action = rng.uniform(-1, 1, shape)
        else:
            script = np.clip(policy.get_action(observation.astype(np.float64)), -1, 1)
            action = np.clip(script + rng.normal(0, noise.gaussian_std, shape), -1, 1)
        action = action.astype(np.float32)
        observations.append(observation)
        actions.append(action)
        observation, reward, _, _, info = env.step(action)
        rewards.append(reward)
        success |= info["success"]
    return Trajectory(np.array(observations), np.array(actions), np.array(rewards), success)


def _phases(count: int, horizon: int, rng: np.random.Generator) -> np.ndarray:
    """Return which steps fall into phases of random actions, (horizon,) of bool."""
    inside = np.zeros(horizon, dtype=bool)
    for _ in range(count):
        # Early phases disturb the approach, which is where recovering is learnt.
        start = int(rng.integers(0, horizon // 2))
        inside[start : start + int(rng.integers(*_PHASE_STEPS))] = True
    return inside


class Collector:
    """Plays the trajectories of one task, each a pure function of (seed, task, its number)."""

    def __init__(self, spec: TaskSpec, seed: int) -> None:
        self.spec = spec
        self.seed = seed
        self.env = make_env(spec.name)
        self.policy = scripted_policy(spec)

    def trajectory(self, number: int, count: int) -> Trajectory:
        """Play trajectory `number` of `count`; the last ones, the prompts, are noiseless."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # scripts exceed [-1, 1]; we clip
            if number >= count - NUM_PROMPTS:
                return self._demonstration(number)
            order = self._rng(0).permutation(count - NUM_PROMPTS)
            noise = LADDER[order[number] % len(LADDER)]
            return self._play(noise, 1, number)

    def made_by(self) -> dict[str, Any]:
        """Describe the behaviour, for the dataset's index."""
        return {
            "behaviour": BEHAVIOUR,
            "seed": self.seed,
            "ladder": [asdict(noise) for noise in LADDER],
        }

    def _demonstration(self, number: int) -> Trajectory:
        """Play without noise, again on failure: a prompt should show the task being solved."""
        for attempt in range(5):
            trajectory = self._play(Noise(), 2, number, attempt)
            if trajectory.success:
                break
        return trajectory

    def _play(self, noise: Noise, *key: int) -> Trajectory:
        rng = self._rng(*key)
        return play(self.env, self.policy, noise, rng, int(rng.integers(2**31)))

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *self.spec.name.encode(), *key))
