"""What acts in a rollout: a trained agent, an oracle among experts, or chance.

Letters: R episodes of a tile, S state, A action.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from m3dt.config import EvaluationConfig
from m3dt.evaluation.agent import Agent
from m3dt.evaluation.sessions import AgentSession, RandomSession, Session, Tile, predict
from m3dt.models import PromptDT
from m3dt.tasks import get_task
from m3dt.utils.errors import UserError

S = TypeVar("S", bound=Session)


class Policy(ABC, Generic[S]):
    """Anything that can be evaluated."""

    name: str
    num_threads: int = 1  # calls of `act` that may run at the same time
    batch_size: int = 1  # episodes that `act` serves best at once

    @abstractmethod
    def begin(self, tile: Tile, seed: int) -> S:
        """Start the episodes of a tile."""

    @abstractmethod
    def act(self, sessions: Sequence[S]) -> list[np.ndarray]:
        """Choose actions for tiles that have observed, (R, A) each in the task's native width."""

    def company(self, task: str) -> Hashable:
        """Return what tasks have in common whose tiles `act` takes together."""
        return None


class RandomPolicy(Policy[RandomSession]):
    """Uniform actions in [-1, 1], from a generator per episode."""

    name = "random"

    def begin(self, tile: Tile, seed: int) -> RandomSession:
        return RandomSession(tile, seed)

    def act(self, sessions: Sequence[RandomSession]) -> list[np.ndarray]:
        return [session.draw() for session in sessions]


class AgentPolicy(Policy[AgentSession]):
    """A trained agent, conditioned on a return and a prompt.

    Args:
        agent: The agent.
        rules: What return it is asked for, what it remembers of its actions (`auto`: as suits the
            agent), and how many episodes share a forward pass; those of one tile for an agent that
            has another model for each task.
        name: Name in tables.
    """

    def __init__(
        self, agent: Agent, rules: EvaluationConfig | None = None, name: str = "agent"
    ) -> None:
        rules = rules or EvaluationConfig()
        self.agent = agent
        self.target = rules.target
        self.name = name
        self.history = agent.history if rules.history == "auto" else rules.history
        self.batch_size = rules.batch_size if agent.masks is None else rules.tile
        # A masked model lives as long as one of its task's tiles is played.
        self._models: WeakValueDictionary[str, PromptDT] = WeakValueDictionary()
        on_cpu = next(agent.model.parameters()).device.type == "cpu"
        self.num_threads = (os.cpu_count() or 1) if on_cpu else 1

    def begin(self, tile: Tile, seed: int) -> AgentSession:
        agent = self.agent_for(tile.task)
        model = self._models.get(tile.task)
        if model is None:
            model = self._models[tile.task] = agent.model_for(tile.task)
        return AgentSession(agent, model, tile, self.target_return(tile.task), self.history)

    def act(self, sessions: Sequence[AgentSession]) -> list[np.ndarray]:
        rows = max(self.batch_size, sum(len(session.remaining) for session in sessions))
        actions = predict(sessions, rows)
        return [session.choose(chosen) for session, chosen in zip(sessions, actions, strict=True)]

    def company(self, task: str) -> Hashable:
        agent = self.agent_for(task)
        return (id(agent), task if agent.masks else "")

    def agent_for(self, task: str) -> Agent:
        """Return the agent that plays a task."""
        return self.agent

    def target_return(self, task: str) -> float:
        """Return the return that the agent is asked for."""
        if self.target == "paper":
            return get_task(task).target_return
        return float(self.agent.context.best_return[self.agent.context.index(task)])


class OraclePolicy(AgentPolicy):
    """Each task is played by the backbone with the expert of its own group (figure 8).

    Args:
        experts: The agents of the experts, whose groups share no task.
        rules: As for `AgentPolicy`.

    Raises:
        UserError: A task belongs to several experts.
    """

    def __init__(self, experts: Sequence[Agent], rules: EvaluationConfig | None = None) -> None:
        super().__init__(experts[0], rules, "oracle")
        self.agents: dict[str, Agent] = {}
        for agent in experts:
            for task in agent.entry.tasks:
                if task in self.agents:
                    raise UserError(
                        f"{agent.run}: {task} belongs to several experts, so that no oracle can "
                        "choose. Imported experts do not say which tasks they were trained on."
                    )
                self.agents[task] = agent

    def agent_for(self, task: str) -> Agent:
        if task not in self.agents:
            raise UserError(f"{self.agent.run}: no expert was trained on {task}")
        return self.agents[task]
