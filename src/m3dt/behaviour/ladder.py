"""Ladders: policies of increasing skill, so that a dataset resembles the replay buffer of SAC.

A ladder is a list of rungs from random play to the best policy of a task. Each rung is a policy
with noise of up to three kinds: random actions with a fixed probability, Gaussian noise on the
actions, and phases of random actions from which the policy recovers. The rungs of a Meta-World task
all use its script, those of a task of one's own its policy. Those of other tasks also use early
snapshots of a training.
"""

from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import numpy as np

from m3dt.behaviour.library import BEST, Library
from m3dt.behaviour.network import Network
from m3dt.behaviour.policy import (
    HOLD_AFTER,
    BehaviourPolicy,
    IdlePlayer,
    LearnedPolicy,
    OwnPolicy,
    ScriptedPolicy,
)
from m3dt.tasks import TaskSpec
from m3dt.tasks.registration import own_task

_PHASE_STEPS = (5, 40)  # length of a phase of random actions, drawn uniformly


class BehaviourDescription(TypedDict, total=False):
    """A task's behaviour in a dataset's index."""

    behaviour: str
    """`scripted`, `learned`, `policy` (a user's own) or `random`."""
    hold_after: int | None
    """Scripted: steps from the first success until the hand stops."""
    policy: str
    """The dotted name of a user's own policy."""
    policies: str
    """Learned: SHA-256 of the file of networks."""
    ladder: list[dict[str, Any]]
    """The fields of each rung: its policy and those of its noise."""


@dataclass(frozen=True)
class Noise:
    """The noise on a policy's actions."""

    random_chance: float = 0.0
    """Probability of a random action, per step."""
    gaussian_std: float = 0.0
    num_phases: int = 0
    """Phases of random actions per episode."""

    def phases(self, horizon: int, rng: np.random.Generator) -> np.ndarray:
        """Draw which steps belong to phases of random actions, (horizon,) bool."""
        inside = np.zeros(horizon, dtype=bool)
        for _ in range(self.num_phases):
            # Early phases disturb the approach, so that the data show how to recover.
            start = int(rng.integers(0, horizon // 2))
            inside[start : start + int(rng.integers(*_PHASE_STEPS))] = True
        return inside

    def apply(self, action: np.ndarray, random: bool, rng: np.random.Generator) -> np.ndarray:
        """Return the action (A,) with noise, or a random one (always if `random`), float32."""
        if random or rng.random() < self.random_chance:
            return rng.uniform(-1, 1, action.shape).astype(np.float32)
        noise = rng.normal(0, self.gaussian_std, action.shape)
        return np.clip(action + noise, -1, 1).astype(np.float32)


@dataclass(frozen=True)
class Rung:
    """The name of a policy in its library, and the noise on its actions."""

    policy: str
    noise: Noise = Noise()


# With Gaussian noise, the mean action is right in states that the script alone never visits, so
# most rungs teach recovery. It also keeps a learner from merely repeating its previous action.
_ON_THE_SCRIPT = (
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
_ON_THE_BEST = (
    Noise(gaussian_std=0.5, num_phases=1),
    Noise(gaussian_std=0.4),
    Noise(gaussian_std=0.3, num_phases=1),
    Noise(gaussian_std=0.2),
    Noise(gaussian_std=0.1),
    Noise(),
)
_ON_SNAPSHOTS = Noise(gaussian_std=0.2)
RANDOM = Rung("random", Noise(random_chance=1.0))


class Ladder:
    """The rungs of one task, from random play to the best policy, and their policies.

    Raises:
        UserError: The task has neither a script nor networks, or the networks are damaged.
    """

    def __init__(self, spec: TaskSpec, library: Library) -> None:
        self._spec = spec
        self._networks: dict[str, Network] = {}
        self._source: BehaviourDescription
        self._own = own = own_task(spec.name)
        if own is not None:
            self._source = {"behaviour": "random"}
            self.rungs = [RANDOM]
            if own.policy is not None:
                self._source = {"behaviour": "policy", "policy": _dotted_name(own.policy)}
                self.rungs = [Rung("policy", noise) for noise in _ON_THE_SCRIPT]
            return
        if spec.domain == "metaworld":
            self._source = {"behaviour": "scripted", "hold_after": HOLD_AFTER.get(spec.name)}
            self.rungs = [Rung("script", noise) for noise in _ON_THE_SCRIPT]
            return
        self._networks = library.networks(spec)
        self._source = {"behaviour": "learned", "policies": library.checksum(spec)}
        self.rungs = [
            Rung(BEST, Noise(random_chance=1.0)),
            *(Rung(name, _ON_SNAPSHOTS) for name in self._networks if name != BEST),
            *(Rung(BEST, noise) for noise in _ON_THE_BEST),
        ]

    @property
    def best(self) -> Rung:
        """The last rung: the best policy without noise."""
        return self.rungs[-1]

    def policy(self, rung: Rung) -> BehaviourPolicy:
        """Build the policy of a rung."""
        if self._own is not None:
            policy = self._own.policy
            return OwnPolicy(self._spec, policy) if policy else IdlePlayer(self._spec)
        if rung.policy in self._networks:
            return LearnedPolicy(self._spec, self._networks[rung.policy])
        return ScriptedPolicy(self._spec, self._source["hold_after"])

    def describe(self) -> BehaviourDescription:
        """Describe the ladder for a dataset's index."""
        rungs = [{"policy": rung.policy, **asdict(rung.noise)} for rung in self.rungs]
        return {**self._source, "ladder": rungs}


def _dotted_name(policy: object) -> str:
    named = policy if hasattr(policy, "__qualname__") else type(policy)
    return f"{named.__module__}.{named.__qualname__}"
