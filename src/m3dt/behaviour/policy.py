"""The interface of behaviour policies, and the policies that are trained networks."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from m3dt.behaviour.network import Network
from m3dt.behaviour.policy_input import policy_input
from m3dt.tasks import TaskSpec


class BehaviourPolicy(Protocol):
    """A policy that plays episodes of one task."""

    def begin(self) -> None:
        """Start a new episode."""

    def act(self, observation: np.ndarray, success: bool) -> np.ndarray:
        """Return an action in [-1, 1], (A,).

        Args:
            observation: (S,).
            success: Whether an earlier step of the episode was a success.
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
