"""What acts in a rollout: a trained agent, an oracle that chooses experts, or chance.

Letters: A action dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from m3dt.config import EvaluationConfig
from m3dt.evaluation.agent import Agent
from m3dt.evaluation.sessions import AgentSession, EpisodeGroup, RandomSession, Session, predict
from m3dt.models import PromptDT
from m3dt.tasks import get_task
from m3dt.utils.errors import UserError
from m3dt.utils.processes import num_workers

SessionT = TypeVar("SessionT", bound=Session)


class Policy(ABC, Generic[SessionT]):
    """Anything that can be evaluated."""

    name: str  # in tables and files
    num_threads: int = 1  # calls of `act` that may run at the same time
    batch_size: int = 1  # most episodes that share a call of `act`, if no group alone has more

    @abstractmethod
    def begin(self, group: EpisodeGroup, seed: int) -> SessionT:
        """Start the episodes of a group."""

    @abstractmethod
    def act(self, sessions: Sequence[SessionT]) -> list[np.ndarray]:
        """Choose actions for groups that have observed, (episodes, A) each in native width."""

    def batch_key(self, task: str) -> Hashable:
        """Return the key of the tasks whose episodes may share a forward pass."""
        return None


class RandomPolicy(Policy[RandomSession]):
    """Uniform actions in [-1, 1], from one generator per episode."""

    name = "random"

    def begin(self, group: EpisodeGroup, seed: int) -> RandomSession:
        return RandomSession(group, seed)

    def act(self, sessions: Sequence[RandomSession]) -> list[np.ndarray]:
        return [session.draw() for session in sessions]


class AgentPolicy(Policy[AgentSession]):
    """A trained agent, conditioned on a target return and a prompt.

    An agent with masks has a different model for each task: only episodes of one group share its
    forward passes. The rules set the target return, the memory of actions (`auto`: as suits the
    agent), and how many episodes share a forward pass.
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
        # A masked model lives as long as a group of its task is running.
        self._models: WeakValueDictionary[str, PromptDT] = WeakValueDictionary()
        on_cpu = next(agent.model.parameters()).device.type == "cpu"
        self.num_threads = num_workers() if on_cpu else 1

    def begin(self, group: EpisodeGroup, seed: int) -> AgentSession:
        agent = self.agent_for(group.task)
        model = self._models.get(group.task)
        if model is None:
            model = self._models[group.task] = agent.model_for(group.task)
        return AgentSession(agent, model, group, self.target_return(group.task), self.history)

    def act(self, sessions: Sequence[AgentSession]) -> list[np.ndarray]:
        num_episodes = sum(len(session.remaining) for session in sessions)
        actions = predict(sessions, max(self.batch_size, num_episodes))
        return [session.choose(chosen) for session, chosen in zip(sessions, actions, strict=True)]

    def batch_key(self, task: str) -> Hashable:
        agent = self.agent_for(task)
        return (id(agent), task if agent.masks else "")

    def agent_for(self, task: str) -> Agent:
        """Return the agent that acts in a task."""
        return self.agent

    def target_return(self, task: str) -> float:
        """Return the return that the agent is asked for."""
        if self.target == "paper":
            return get_task(task).target_return
        return float(self.agent.context.best_return[self.agent.context.index(task)])


class OraclePolicy(AgentPolicy):
    """In each task, the backbone acts with the expert of the task's own group (figure 8).

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
                        f"{agent.run}: {task} belongs to several experts, so an oracle cannot "
                        "choose. Imported experts do not record which tasks they were trained on."
                    )
                self.agents[task] = agent

    def agent_for(self, task: str) -> Agent:
        if task not in self.agents:
            raise UserError(f"{self.agent.run}: no expert was trained on {task}")
        return self.agents[task]
