"""What acts in a rollout: a trained agent, chance, or nothing.

Letters: A action dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from m3dt.config import EvaluationConfig
from m3dt.evaluation.actor import Actor
from m3dt.evaluation.agent import Agent
from m3dt.evaluation.costs import Stopwatch
from m3dt.evaluation.gates import Chooser, chooser_of, with_largest_gates
from m3dt.evaluation.sessions import (
    AgentSession,
    EpisodeGroup,
    IdleSession,
    RandomSession,
    Session,
    predict,
)
from m3dt.models import PromptDT
from m3dt.tasks import TaskSpec, get_task
from m3dt.utils.processes import num_workers

SessionT = TypeVar("SessionT", bound=Session)

# Rows of a forward pass, where `evaluation.batch_size` leaves them open.
_CPU_ROWS = 10
_GPU_ROWS = 128
_COUNTED_TASKS = 8  # over which operations are averaged


class Policy(ABC, Generic[SessionT]):
    """Anything that can be evaluated."""

    name: str  # in tables and files
    num_threads: int = 1  # calls of `act` that may run at the same time
    batch_size: int = 1  # most episodes that share a call of `act`, if no group alone has more

    @cached_property
    def stopwatch(self) -> Stopwatch:
        """What times the policy's actions."""
        return Stopwatch()

    def flops(self, tasks: Sequence[str]) -> float:
        """Return the floating-point operations of an action, mean over a few of the tasks."""
        return 0.0

    @abstractmethod
    def begin(self, group: EpisodeGroup, seed: int) -> SessionT:
        """Start the episodes of a group."""

    @abstractmethod
    def act(self, sessions: Sequence[SessionT]) -> list[np.ndarray]:
        """Choose actions for groups that have observed, (episodes, A) each in native width."""

    def spec(self, task: str) -> TaskSpec:
        """Return the specification by which a task's episodes score."""
        return get_task(task)

    def batch_key(self, task: str) -> Hashable:
        """Return the key of the tasks whose episodes may share a forward pass."""
        return None


class UntrainedPolicy(Policy[SessionT]):
    """A policy that nobody trained.

    Args:
        specs: Of tasks whose score follows from the data.
    """

    def __init__(self, specs: Mapping[str, TaskSpec] | None = None) -> None:
        self._specs = specs or {}

    def spec(self, task: str) -> TaskSpec:
        return self._specs.get(task) or get_task(task)


class RandomPolicy(UntrainedPolicy[RandomSession]):
    """Uniform actions in [-1, 1], from one generator per episode."""

    name = "random"

    def begin(self, group: EpisodeGroup, seed: int) -> RandomSession:
        return RandomSession(group, seed)

    def act(self, sessions: Sequence[RandomSession]) -> list[np.ndarray]:
        return [session.draw() for session in sessions]


class IdlePolicy(UntrainedPolicy[IdleSession]):
    """Zero actions: what a task gives for nothing, such as 40 points for standing in ant-dir."""

    name = "nothing"

    def begin(self, group: EpisodeGroup, seed: int) -> IdleSession:
        return IdleSession(group)

    def act(self, sessions: Sequence[IdleSession]) -> list[np.ndarray]:
        return [np.zeros(session.shape, np.float32) for session in sessions]


UNTRAINED: dict[str, type[RandomPolicy | IdlePolicy]] = {
    policy.name: policy for policy in (RandomPolicy, IdlePolicy)
}


class AgentPolicy(Policy[AgentSession]):
    """A trained agent, conditioned on a target return and a prompt.

    An agent with masks has a different model for each task: only episodes of one group share its
    forward passes. The rules set the target return, the memory of actions (`auto`: as suits the
    agent), the precision, which experts act, and how many episodes share a forward pass.

    Args:
        agent: The agent.
        rules: Settings; by default those of the schema.
        name: In tables and files.
        chooser: Chooses experts once per episode; by default as the agent and the rules say.
        tasks: In which it acts, where `rules.prompts` has prompts for them alone.

    Raises:
        UserError: The rules ask for what the agent cannot do, or for prompts that are not there.
    """

    def __init__(
        self,
        agent: Agent,
        rules: EvaluationConfig | None = None,
        name: str = "agent",
        chooser: Chooser | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        self.rules = rules or EvaluationConfig()
        if self.rules.prompts:
            own = tasks or agent.context.tasks
            agent = agent.prompted_by(self.rules.prompts, self.rules.prompt_return, own)
        self.agent = agent
        self.name = name
        self.chooser = chooser or chooser_of(agent, self.rules)
        history = self.rules.history
        self.history = agent.history if history == "auto" else history
        device = next(agent.model.parameters()).device
        self.num_threads = num_workers() if device.type == "cpu" else 1
        if agent.masks is None:
            self.batch_size = pass_size(self.rules, len(agent.context.tasks), device.type)
            model = with_largest_gates(agent.model, self.rules)
            self._actor: Actor | None = self._make_actor(model)
        else:
            self.batch_size = self.rules.tile
            self._actor = None
        # A masked model lives as long as a group of its task is running.
        self._masked: WeakValueDictionary[str, Actor] = WeakValueDictionary()

    def begin(self, group: EpisodeGroup, seed: int) -> AgentSession:
        task, context = group.task, self.agent.context
        actor = self._actor or self._masked.get(task)
        if actor is None:
            actor = self._masked[task] = self._make_actor(self.agent.model_for(task))
        target = self.target_return(task)
        return AgentSession(actor, context, group, target, self.history, self.chooser)

    def act(self, sessions: Sequence[AgentSession]) -> list[np.ndarray]:
        with self.stopwatch.timing(sum(len(session.remaining) for session in sessions)):
            actions = predict(sessions)
        return [session.choose(chosen) for session, chosen in zip(sessions, actions, strict=True)]

    def flops(self, tasks: Sequence[str]) -> float:
        some = tasks[:: -(-len(tasks) // _COUNTED_TASKS)]
        found = []
        for task in some:
            session = self.begin(EpisodeGroup(task, (0, 1)), 0)
            session.observe(np.zeros(session.states[:, 0].shape, np.float32), None)
            found.append(session.actor.flops(session.window(), session.prompt))
        return sum(found) / len(found)

    def spec(self, task: str) -> TaskSpec:
        return self.agent.context.spec(task)

    def batch_key(self, task: str) -> Hashable:
        return task if self.agent.masks else None

    def target_return(self, task: str) -> float:
        """Return the return that the agent is asked for."""
        spec, context = self.spec(task), self.agent.context
        target = spec.target_return
        if self.rules.target == "data":
            target = float(context.best_return[context.index(task)])
        return target + (self.rules.target_scale - 1) * (target - spec.lowest_return)

    def _make_actor(self, model: PromptDT) -> Actor:
        return Actor(model, self.batch_size, self.rules.precision)


def pass_size(rules: EvaluationConfig, num_tasks: int, device: str) -> int:
    """Return the number of rows of a forward pass, by `evaluation.batch_size`.

    A GPU gets large passes, but at most a third of all episodes: while it acts for some, workers
    step others.
    """
    if rules.batch_size:
        return rules.batch_size
    rows = _CPU_ROWS if device == "cpu" else min(_GPU_ROWS, num_tasks * rules.episodes // 3)
    return max(rows, rules.tile)
