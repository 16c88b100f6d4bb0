"""The memory of running episodes: their history, and the window of it that a model sees.

Letters: B batch, T timesteps of the window, S state dim, A action dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from m3dt.data.batch import Segment
from m3dt.data.context import TaskContext
from m3dt.data.format import NUM_PROMPTS
from m3dt.data.inputs import Rows
from m3dt.evaluation.actor import Actor
from m3dt.evaluation.gates import Chooser
from m3dt.models.fast import EncodedPrompt
from m3dt.tasks import get_task
from m3dt.utils.errors import RunError


class EpisodeGroup(NamedTuple):
    """Episodes of one task that run in step."""

    task: str
    episodes: tuple[int, ...]  # their numbers

    def seeds(self, seed: int) -> list[int]:
        """Return the seed of each episode, keyed by (seed, task, episode)."""
        return [episode_seed(seed, self.task, episode) for episode in self.episodes]


def check_finite(what: str, values: np.ndarray, group: EpisodeGroup, step: int) -> None:
    """Check what was seen or chosen at a step of a group, (episodes, ...).

    Raises:
        RunError: A value is not finite: no score is made of such an episode.
    """
    finite = np.isfinite(values).reshape(len(group.episodes), -1).all(axis=1)
    if not finite.all():
        episode = group.episodes[int(np.argmin(finite))]
        raise RunError(
            f"{group.task}, episode {episode}, step {step}: {what} is not finite. "
            "No score is made of it."
        )


def episode_seed(seed: int, task: str, episode: int) -> int:
    """Return the seed of an episode's initial state."""
    sequence = np.random.SeedSequence((seed, *task.encode(), episode))
    return int(sequence.generate_state(1)[0] >> 1)


class Session(ABC):
    """The memory of a running group of episodes."""

    @abstractmethod
    def observe(self, observations: np.ndarray, rewards: np.ndarray | None) -> None:
        """Record a step.

        Observations are (episodes, S) in the task's native width. Rewards are those of the previous
        step, (episodes,); None at the first step.
        """


class RandomSession(Session):
    """One random generator per episode."""

    def __init__(self, group: EpisodeGroup, seed: int) -> None:
        self.rngs = [np.random.default_rng((s, 1)) for s in group.seeds(seed)]
        self.action_dim = get_task(group.task).action_dim

    def observe(self, observations: np.ndarray, rewards: np.ndarray | None) -> None:
        """Record nothing."""

    def draw(self) -> np.ndarray:
        """Return uniform actions, (episodes, A)."""
        draws = [rng.uniform(-1, 1, self.action_dim) for rng in self.rngs]
        return np.array(draws, np.float32)


class IdleSession(Session):
    """Nothing but the shape of the actions."""

    def __init__(self, group: EpisodeGroup) -> None:
        self.shape = (len(group.episodes), get_task(group.task).action_dim)

    def observe(self, observations: np.ndarray, rewards: np.ndarray | None) -> None:
        """Record nothing."""


class AgentSession(Session):
    """The history of a group in native widths; the model sees its last `context_length` steps.

    `history` says which dimensions of past actions are remembered, as in `evaluation.history`.
    `chooser` says which experts act, unless routers weigh all of them at each token.
    """

    def __init__(
        self,
        actor: Actor,
        context: TaskContext,
        group: EpisodeGroup,
        target_return: float,
        history: str,
        chooser: Chooser | None = None,
    ) -> None:
        self.actor = actor
        self.group = group
        config = actor.model.config
        self.inputs = context.inputs(group.task, config)
        self.spec = get_task(group.task)
        self.remembered_dims = config.action_dim if history == "all_dims" else self.spec.action_dim
        self.remaining = np.full(len(group.episodes), target_return, np.float64)
        # The first window starts before the episode, with T - 1 steps of padding.
        self.padding = config.context_length - 1
        self.steps = np.arange(-self.padding, self.spec.horizon)
        shape = (len(group.episodes), len(self.steps))
        self.states = np.zeros((*shape, self.spec.state_dim), np.float32)
        self.actions = np.zeros((*shape, self.remembered_dims), np.float32)
        self.returns_to_go = np.zeros(shape, np.float64)
        self.t = -1
        # Each episode's prompt runs through the model once for the whole rollout.
        task, which = context.index(group.task), np.array(group.episodes) % NUM_PROMPTS
        prompt = actor.place(Segment(*(tensor[task][which] for tensor in context.prompts)))
        selection = None
        if chooser is not None:
            selection = chooser(actor, prompt, group.task, group.episodes)
        self.prompt = actor.encode(prompt, task, selection)

    def observe(self, observations: np.ndarray, rewards: np.ndarray | None) -> None:
        self.t += 1
        if rewards is not None:
            self.remaining -= rewards
        self.states[:, self.padding + self.t] = observations
        self.returns_to_go[:, self.padding + self.t] = self.remaining

    def window(self) -> Rows:
        """Return the model's inputs at the current step, (episodes, T, ...).

        The newest action is not chosen yet; it is zero, and causality hides it.

        Raises:
            RunError: The newest input is not finite.
        """
        seen = slice(self.t, self.padding + self.t + 1)
        returns_to_go = self.returns_to_go[:, seen]
        steps = np.broadcast_to(self.steps[seen], returns_to_go.shape)
        states, actions = self.states[:, seen], self.actions[:, seen]
        rows = self.inputs.prepare(states, actions, returns_to_go, steps, real=steps >= 0)
        check_finite("the normalised observation", rows.states[:, -1], self.group, self.t)
        check_finite("the return-to-go", rows.returns_to_go[:, -1], self.group, self.t)
        return rows

    def choose(self, actions: np.ndarray) -> np.ndarray:
        """Record the model's actions, (episodes, A), and return them in the task's native width."""
        self.actions[:, self.padding + self.t] = actions[:, : self.remembered_dims]
        return actions[:, : self.spec.action_dim]


def predict(sessions: Sequence[AgentSession]) -> list[np.ndarray]:
    """Return the next actions of several groups together, (episodes, A) each.

    All sessions have the same actor.
    """
    rows = Rows.join([session.window() for session in sessions])
    prompt = EncodedPrompt.join([session.prompt for session in sessions])
    ends = np.cumsum([len(session.remaining) for session in sessions])
    return np.split(sessions[0].actor.act(rows, prompt), ends[:-1])
