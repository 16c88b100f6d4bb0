"""Acting by hand: give observations, get actions, in a loop of one's own.

Letters: S state dim, A action dim.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from m3dt.config import EvaluationConfig
from m3dt.data.values import check_numbers, number_array
from m3dt.evaluation.agent import Agent
from m3dt.evaluation.policies import AgentPolicy
from m3dt.evaluation.sessions import EpisodeGroup, check_finite
from m3dt.utils.errors import UserError
from m3dt.utils.numbers import whole_number

_LARGEST = float(np.finfo(np.float32).max)  # what a model's inputs can hold


class Actor:
    """An agent with the memory of episodes of one task that run in step; see `Agent.actor`.

    It takes the actions that `m3dt.evaluate` takes in the same episodes: the same to the bit with
    the same `batch_size`, as many episodes at once and one CPU thread, otherwise up to rounding. By
    default its passes have a row per episode, and those of `m3dt.evaluate` ten.

    Args:
        agent: The agent.
        task: Name of a task that it knows.
        rules: Settings; their number of episodes run in step.
        target: The return that the agent is asked for; by default as the rules say.

    Raises:
        UserError: The agent does not know the task, or cannot act as the rules say.
    """

    def __init__(
        self, agent: Agent, task: str, rules: EvaluationConfig, target: float | None = None
    ) -> None:
        if not rules.batch_size:
            rules = replace(rules, tile=rules.episodes, batch_size=rules.episodes)
        self._policy = AgentPolicy(agent, rules, tasks=[task])
        self._task = task
        self._target = target
        self.reset()

    def __repr__(self) -> str:
        return f"Actor({self._task}, episodes={len(self._ended)}, step={self._session.t + 1})"

    @property
    def seeds(self) -> list[int]:
        """Seeds from which `m3dt.evaluate` starts these episodes: `env.reset(seed=...)`."""
        return self._session.group.seeds(self._policy.rules.seed)

    def reset(self, first: int = 0) -> None:
        """Forget all and begin new episodes. A new actor has begun some already.

        Args:
            first: Number of the first of them; the others follow. As in `m3dt.evaluate`, an
                episode's number gives its seed and which of the task's prompts it has.

        Raises:
            UserError: The number is negative, or not whole.
        """
        rules, first = self._policy.rules, whole_number("reset: first", first)
        if first < 0:
            raise UserError(f"reset(first={first}): episodes are numbered from 0")
        group = EpisodeGroup(self._task, tuple(range(first, first + rules.episodes)))
        self._session = self._policy.begin(group, rules.seed, self._target)
        self._ended = np.zeros(rules.episodes, bool)

    def act(self, observation: Any, reward: Any = None, done: Any = None) -> np.ndarray:
        """Return the next action of each episode.

        Args:
            observation: What the environment shows now, in the task's own width: (episodes, S),
                or (S,) for one episode.
            reward: What the previous action earned: (episodes,), or a number for one episode. Left
                out at an episode's first step, and for models that are not conditioned on returns.
            done: Which episodes have ended, (episodes,) of bool. They stay so until `reset`; their
                observations and rewards are ignored, and their actions are 0.

        Returns:
            Float32 in [-1, 1], (episodes, A) of the task's own width; (A,) for an observation (S,).

        Raises:
            UserError: A shape is wrong, a value is not finite, a reward is missing or too early, or
                all episodes have ended. The actor's memory is then as before.
            RunError: The model's inputs overflow, or its action is not finite.
        """
        session, ended = self._session, self._ended.copy()
        where = f"{self._task}, step {session.t + 1}"
        if done is not None:
            ended |= _flags(where, done, len(ended))
        if ended.all():
            raise UserError(f"{where}: all episodes have ended; reset() begins new ones")
        before = session.states[:, -1]
        seen = _rows(f"{where}: the observation", observation, before, ended)
        rewards = self._rewards(where, reward, ended)
        self._ended = ended
        session.observe(seen, rewards)
        (actions,) = self._policy.act([session])
        check_finite("the action", actions, session.group, session.t)
        actions = np.where(ended[:, None], np.float32(0), actions)
        return actions[0] if np.ndim(observation) == 1 else actions

    def _rewards(self, where: str, reward: Any, ended: np.ndarray) -> np.ndarray | None:
        """Return what the previous actions earned, (episodes,); None at the first step."""
        session = self._session
        if session.t < 0:
            if reward is not None:
                raise UserError(f"{where}: no action has been rewarded yet; leave the reward out")
            return None
        if reward is None:
            if session.task.inputs.model.condition_on_return:
                raise UserError(
                    f"{where}: give the reward of the previous action, act(observation, reward); "
                    "reset() begins new episodes"
                )
            return None
        return _rows(f"{where}: the reward", reward, np.zeros(len(ended)), ended)


def _rows(what: str, value: Any, before: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """Return what a user gave for each episode; of those that have ended, what was before.

    Args:
        what: Opens messages.
        value: (episodes, ...), or (...) for one episode.
        before: (episodes, ...).
        ended: (episodes,) of bool.
    """
    array = number_array(what, value)
    if len(ended) == 1 and array.shape == before.shape[1:]:
        array = array[None]
    if array.shape != before.shape:
        own = f" or {before.shape[1:]}" if len(ended) == 1 else ""
        raise UserError(f"{what} has shape {array.shape}, expected {before.shape}{own}")
    check_numbers(what, array[~ended], _LARGEST)
    return np.where(ended.reshape(-1, *[1] * (array.ndim - 1)), before, array)


def _flags(where: str, done: Any, count: int) -> np.ndarray:
    """Return which episodes a user says have ended, (episodes,) of bool."""
    flags = np.atleast_1d(np.asarray(done))
    if flags.shape != (count,) or flags.dtype != bool:
        raise UserError(
            f"{where}: done has shape {flags.shape} of {flags.dtype}, expected ({count},) of bool"
        )
    return flags
