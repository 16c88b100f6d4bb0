"""Behaviour policies: trained networks, Meta-World's scripts, and a user's own."""

from typing import Any, Protocol

import numpy as np

from m3dt.behaviour.network import Network, policy_input
from m3dt.tasks import TaskSpec
from m3dt.tasks.registration import Controller
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError, others_code


class BehaviourPolicy(Protocol):
    """A policy that plays episodes of one task."""

    def begin(self) -> None:
        """Start a new episode."""

    def act(self, observation: np.ndarray, success: bool) -> np.ndarray:
        """Return an action in [-1, 1], (A,), after an observation (S,) and any earlier success."""


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


class OwnPolicy:
    """A user's policy of a task of their own."""

    def __init__(self, spec: TaskSpec, policy: Controller) -> None:
        self._spec = spec
        self._policy = policy

    def begin(self) -> None:
        pass

    def act(self, observation: np.ndarray, success: bool) -> np.ndarray:
        """See `BehaviourPolicy`.

        Raises:
            UserError: What the policy returned is no action.
            RunError: It raised an error.
        """
        with others_code(f"task '{self._spec.name}': its policy"):
            action = np.asarray(self._policy(observation), np.float64)
        if action.shape != (self._spec.action_dim,) or not np.isfinite(action).all():
            raise UserError(
                f"task '{self._spec.name}': its policy returned {action.tolist()}, not "
                f"{counted(self._spec.action_dim, 'finite number')}"
            )
        return np.clip(action, -1, 1)


class IdlePlayer:
    """Zero actions, which noise replaces, where a task has no policy."""

    def __init__(self, spec: TaskSpec) -> None:
        self._action = np.zeros(spec.action_dim)

    def begin(self) -> None:
        pass

    def act(self, observation: np.ndarray, success: bool) -> np.ndarray:
        return self._action


# Steps from the first success until the hand stops. Measured over 10 episodes each: script played
# on, stopped at the first success, stopped 10 steps later. A task is listed if stopping raised its
# mean return by 5 % or more.
HOLD_AFTER: dict[str, int] = {
    "button-press-topdown-wall-v2": 0,
    "button-press-wall-v2": 10,
    "coffee-button-v2": 0,
    "door-unlock-v2": 0,
    "faucet-close-v2": 0,
    "faucet-open-v2": 0,
    "hammer-v2": 0,
    "handle-press-side-v2": 0,
    "lever-pull-v2": 0,
    "peg-unplug-side-v2": 10,
    "pick-out-of-hole-v2": 10,
    "pick-place-wall-v2": 0,
    "plate-slide-back-side-v2": 0,
    "plate-slide-back-v2": 0,
    "plate-slide-side-v2": 0,
    "push-back-v2": 0,
    "push-v2": 0,
    "shelf-place-v2": 10,
    "stick-push-v2": 0,
}
_IRREGULAR_NAMES = {"peg-insert-side-v3": "SawyerPegInsertionSideV3Policy"}


class ScriptedPolicy:
    """Meta-World's script of a task.

    Most scripts move on after success and lose the reward of staying there, so the hand may stop.
    """

    def __init__(self, spec: TaskSpec, hold_after: int | None) -> None:
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
    regular = "Sawyer" + "".join(word.capitalize() for word in words) + "V3Policy"
    return getattr(metaworld.policies, _IRREGULAR_NAMES.get(spec.env_id, regular))()
