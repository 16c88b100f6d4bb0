"""Policies as collection plays them, from observation to action.

Letters: S observation, A action.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from m3dt.behaviour.network import Network
from m3dt.behaviour.policy_input import policy_input
from m3dt.tasks import TaskSpec

_IRREGULAR = {"peg-insert-side-v3": "SawyerPegInsertionSideV3Policy"}


class Policy(Protocol):
    """Anything that plays episodes of one task."""

    def begin(self) -> None:
        """Forget the episode before."""

    def act(self, observation: np.ndarray, success: bool) -> np.ndarray:
        """Return an action, (A,) in [-1, 1].

        Args:
            observation: (S,).
            success: Whether the episode has succeeded at an earlier step.
        """


class LearnedPolicy:
    """A trained network, without noise."""

    def __init__(self, spec: TaskSpec, network: Network) -> None:
        self._spec = spec
        self._network = network
        self._goal = np.array(spec.goal or 0.0)

    def begin(self) -> None:
        pass

    def act(self, observation: np.ndarray, success: bool) -> np.ndarray:
        return self._network(policy_input(self._spec, observation, self._goal))


class ScriptedPolicy:
    """Meta-World's script of a task, which may hold still once it has succeeded.

    Most scripts move on after success and lose the reward of staying there.
    """

    def __init__(self, spec: TaskSpec, hold_after: int | None) -> None:
        """Build the script.

        Args:
            spec: A Meta-World task.
            hold_after: Steps from the first success until the hand stops; None plays the script on.
        """
        self._script = _script(spec)
        self._hold_after = hold_after
        self.begin()

    def begin(self) -> None:
        self._steps_since_success = 0
        self._grip = 0.0

    def act(self, observation: np.ndarray, success: bool) -> np.ndarray:
        self._steps_since_success += success
        if self._hold_after is not None and self._steps_since_success > self._hold_after:
            return np.array([0.0, 0.0, 0.0, self._grip])
        action = np.clip(self._script.get_action(observation.astype(np.float64)), -1, 1)
        self._grip = float(action[3])
        return action


def _script(spec: TaskSpec) -> Any:
    import metaworld.policies

    words = spec.env_id.removesuffix("-v3").split("-")
    camel = "Sawyer" + "".join(word.capitalize() for word in words) + "V3Policy"
    return getattr(metaworld.policies, _IRREGULAR.get(spec.env_id, camel))()
