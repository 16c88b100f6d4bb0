"""What a policy remembers of episodes that run: their history, and the window that a model sees.

Letters: R episodes of a tile, B rows of a forward pass, T timesteps of the window, S state,
A action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from m3dt.config import ComputeConfig
from m3dt.config.schema import ACTION_DIM, STATE_DIM
from m3dt.data.batch import Segment
from m3dt.data.format import NUM_PROMPTS
from m3dt.evaluation.agent import Agent
from m3dt.models import PromptDT
from m3dt.models.fast import EncodedPrompt, act, encode_prompt
from m3dt.tasks import get_task

COMPUTE = ComputeConfig()  # how agents compute


class Tile(NamedTuple):
    """Episodes of one task that run in step."""

    task: str
    episodes: tuple[int, ...]  # numbers, R of them

    def seeds(self, seed: int) -> list[int]:
        """Return the seed of each episode, keyed by (seed, task, episode)."""
        return [episode_seed(seed, self.task, episode) for episode in self.episodes]


def episode_seed(seed: int, task: str, episode: int) -> int:
    """Return the seed of an episode's initial state."""
    sequence = np.random.SeedSequence((seed, *task.encode(), episode))
    return int(sequence.generate_state(1)[0] >> 1)


class Session(ABC):
    """The memory of a running tile."""

    @abstractmethod
    def observe(self, observations: np.ndarray, rewards: np.ndarray | None) -> None:
        """Take in a step.

        Args:
            observations: (R, S) in the task's native width.
            rewards: Of the step before, (R,); None at the first.
        """


class RandomSession(Session):
    """A generator for each episode."""

    def __init__(self, tile: Tile, seed: int) -> None:
        self.rngs = [np.random.default_rng((s, 1)) for s in tile.seeds(seed)]
        self.action_dim = get_task(tile.task).action_dim

    def observe(self, observations: np.ndarray, rewards: np.ndarray | None) -> None:
        """Remember nothing."""

    def draw(self) -> np.ndarray:
        """Return uniform actions, (R, A)."""
        draws = [rng.uniform(-1, 1, self.action_dim) for rng in self.rngs]
        return np.array(draws, np.float32)


class AgentSession(Session):
    """The history of a tile: the model sees its last `context_length` steps, exactly.

    Args:
        agent: Whose model acts.
        model: That model, masked for the task if the agent has masks.
        tile: The episodes.
        target_return: That the agent is asked for.
        history: What is remembered of actions, as `evaluation.history` says.
    """

    def __init__(
        self, agent: Agent, model: PromptDT, tile: Tile, target_return: float, history: str
    ) -> None:
        self.model = model
        self.spec = get_task(tile.task)
        # Training has zeros behind the task's own dimensions.
        self.kept = ACTION_DIM if history == "all_dims" else self.spec.action_dim
        context, index = agent.context, agent.context.index(tile.task)
        self.mean = context.state_mean[index].numpy()
        self.std = context.state_std[index].numpy()
        R, T, horizon = len(tile.episodes), model.config.context_length, self.spec.horizon
        # The first window begins before the episode: T - 1 steps of padding.
        self.before = T - 1
        length = self.before + horizon
        self.states = np.zeros((R, length, STATE_DIM), np.float32)
        self.actions = np.zeros((R, length, ACTION_DIM), np.float32)
        self.returns_to_go = np.zeros((R, length, 1), np.float32)
        self.attention_mask = np.zeros((R, length), np.float32)
        steps = np.arange(-self.before, horizon).clip(0, model.config.max_timesteps - 1)
        self.timesteps = np.tile(steps, (R, 1))
        self.remaining = np.full(R, target_return, np.float64)
        self.t = -1
        self.prompt = self._encode(context.prompts, index, tile.episodes)

    @torch.inference_mode()
    def _encode(self, prompts: Segment, task: int, episodes: Sequence[int]) -> EncodedPrompt:
        """Run each episode's prompt through the model, once for the whole rollout."""
        device = next(self.model.parameters()).device
        which = torch.tensor(episodes) % NUM_PROMPTS
        rows = Segment(*(tensor[task][which].to(device) for tensor in prompts))
        number = torch.full((len(episodes),), task, device=device)
        return encode_prompt(self.model, rows, number, COMPUTE)

    def observe(self, observations: np.ndarray, rewards: np.ndarray | None) -> None:
        self.t += 1
        now = self.before + self.t
        if rewards is not None:
            self.remaining -= rewards
        padded = np.zeros((len(observations), STATE_DIM), np.float32)
        padded[:, : self.spec.state_dim] = observations
        self.states[:, now] = (padded - self.mean) / self.std
        self.returns_to_go[:, now, 0] = self.remaining / self.spec.return_scale
        self.attention_mask[:, now] = 1.0

    def window(self) -> tuple[np.ndarray, ...]:
        """Return what the model sees, the fields of a `Segment`, (R, T, ...).

        The newest action is not chosen yet; zeros stand in, and causality hides them.
        """
        seen = slice(self.t, self.before + self.t + 1)
        fields = (self.states, self.actions, self.returns_to_go, self.timesteps)
        return tuple(field[:, seen] for field in (*fields, self.attention_mask))

    def choose(self, actions: np.ndarray) -> np.ndarray:
        """Remember the model's actions, (R, A), and return them in the task's native width."""
        self.actions[:, self.before + self.t, : self.kept] = actions[:, : self.kept]
        return actions[:, : self.spec.action_dim]


@torch.inference_mode()
def predict(sessions: Sequence[AgentSession], rows: int) -> list[np.ndarray]:
    """Return the next actions of several tiles of one model, (R, A) each, in one forward pass.

    Args:
        sessions: Of the tiles, all with the same model.
        rows: B, at least as many as the tiles' episodes; the last one fills up the others.
    """
    model = sessions[0].model
    device = next(model.parameters()).device
    windows = zip(*(session.window() for session in sessions), strict=True)
    fields = [np.concatenate(parts) for parts in windows]
    index = np.arange(rows).clip(max=len(fields[0]) - 1)
    segment = Segment(*(torch.from_numpy(field[index]).to(device) for field in fields))
    prompt = EncodedPrompt.join([session.prompt for session in sessions])
    if len(fields[0]) < rows:
        prompt = prompt.take(torch.from_numpy(index).to(device))
    actions = act(model, segment, prompt, COMPUTE).float().cpu().numpy()  # (B, A)
    ends = np.cumsum([len(session.remaining) for session in sessions])
    return np.split(actions[: ends[-1]], ends[:-1])
