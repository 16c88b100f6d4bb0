"""Behaviour that fills a dataset from random play to the best policy, as SAC replay does.

A task's ladder is a list of rungs. Each is a policy, spoilt in three ways: a chance of a random
action at every step, Gaussian noise on the policy's action, and phases of random actions from which
the policy recovers. Meta-World's rungs spoil one script; the others also climb from early
snapshots of a training to its best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from m3dt.behaviour.behaviours import LearnedPolicy, Policy, ScriptedPolicy
from m3dt.behaviour.library import BEST, Library
from m3dt.behaviour.network import Network
from m3dt.behaviour.scripts import HOLD_AFTER
from m3dt.tasks import TaskSpec

_PHASE_STEPS = (5, 40)  # length of a phase of random actions, uniform


@dataclass(frozen=True)
class Noise:
    """How a policy is spoilt."""

    random_chance: float = 0.0
    gaussian_std: float = 0.0
    num_phases: int = 0

    def phases(self, horizon: int, rng: np.random.Generator) -> np.ndarray:
        """Draw which steps fall into phases of random actions, (horizon,) of bool."""
        inside = np.zeros(horizon, dtype=bool)
        for _ in range(self.num_phases):
            # Early phases disturb the approach, which is where recovering is learnt.
            start = int(rng.integers(0, horizon // 2))
            inside[start : start + int(rng.integers(*_PHASE_STEPS))] = True
        return inside

    def spoil(self, action: np.ndarray, random: bool, rng: np.random.Generator) -> np.ndarray:
        """Return a policy's action with noise, or a random one, (A,) float32."""
        if random or rng.random() < self.random_chance:
            return rng.uniform(-1, 1, action.shape).astype(np.float32)
        noise = rng.normal(0, self.gaussian_std, action.shape)
        return np.clip(action + noise, -1, 1).astype(np.float32)


@dataclass(frozen=True)
class Rung:
    """A policy's name in its library, and its noise."""

    policy: str
    noise: Noise = Noise()


# Gaussian noise keeps the mean action right in states the script alone never visits, so that most
# rungs teach recovery; it also stops a learner from merely repeating the action before.
_SCRIPTED = tuple(
    Rung("script", noise)
    for noise in (
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
)
_ON_THE_BEST = (
    Noise(gaussian_std=0.5, num_phases=1),
    Noise(gaussian_std=0.4),
    Noise(gaussian_std=0.3, num_phases=1),
    Noise(gaussian_std=0.2),
    Noise(gaussian_std=0.1),
    Noise(),
)
_ON_SNAPSHOTS = Noise(gaussian_std=0.2)


class Ladder:
    """The rungs of one task, from random to best, and what is needed to play them.

    Raises:
        UserError: The task has neither a script nor trained policies, or theirs are damaged.
    """

    def __init__(self, spec: TaskSpec, library: Library) -> None:
        self._spec = spec
        self._networks: dict[str, Network] = {}
        self.rungs: Sequence[Rung] = _SCRIPTED
        hold_after = HOLD_AFTER.get(spec.name)
        self._source: dict[str, Any] = {"behaviour": "scripted", "hold_after": hold_after}
        if spec.domain == "metaworld":
            return
        self._networks = library.networks(spec)
        self._source = {"behaviour": "learned", "policies": library.checksum(spec)}
        self.rungs = (
            Rung(BEST, Noise(random_chance=1.0)),
            *(Rung(name, _ON_SNAPSHOTS) for name in self._networks if name != BEST),
            *(Rung(BEST, noise) for noise in _ON_THE_BEST),
        )

    @property
    def best(self) -> Rung:
        """The last rung: the best policy without noise."""
        return self.rungs[-1]

    def policy(self, rung: Rung) -> Policy:
        """Build the policy of a rung."""
        if rung.policy in self._networks:
            return LearnedPolicy(self._spec, self._networks[rung.policy])
        return ScriptedPolicy(self._spec, HOLD_AFTER.get(self._spec.name))

    def describe(self) -> dict[str, Any]:
        """Describe the ladder for a dataset's index."""
        rungs = [{"policy": rung.policy, **asdict(rung.noise)} for rung in self.rungs]
        return {**self._source, "ladder": rungs}
