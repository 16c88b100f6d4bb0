"""What acts in a rollout: a trained agent, or chance.

Letters: R episodes that run together, T timesteps of history, S state, A action.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m3dt.agent import Agent
from m3dt.config.schema import ACTION_DIM, STATE_DIM
from m3dt.data.batch import Segment
from m3dt.data.format import NUM_PROMPTS
from m3dt.models.prompt_dt import Prompt
from m3dt.tasks import get_task


class Tile(NamedTuple):
    """Episodes of one task that run in step. Their composition depends on nothing else."""

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
    """A policy's memory of a running tile."""

    @abstractmethod
    def act(self, observations: np.ndarray, rewards: np.ndarray | None) -> np.ndarray:
        """Choose actions.

        Args:
            observations: (R, S) in the task's native width.
            rewards: Of the step before, (R,); None at the first.

        Returns:
            Actions, (R, A) in the task's native width.
        """


class Policy(ABC):
    """Anything that can be evaluated."""

    name: str
    num_threads: int = 1  # tiles that `act` may serve at the same time

    @abstractmethod
    def begin(self, tile: Tile, seed: int) -> Session:
        """Start the episodes of a tile."""


class RandomPolicy(Policy):
    """Uniform actions in [-1, 1], from a generator per episode."""

    name = "random"

    def begin(self, tile: Tile, seed: int) -> Session:
        return _RandomSession(tile, seed)


class _RandomSession(Session):
    def __init__(self, tile: Tile, seed: int) -> None:
        self.rngs = [np.random.default_rng((s, 1)) for s in tile.seeds(seed)]
        self.action_dim = get_task(tile.task).action_dim

    def act(self, observations: np.ndarray, rewards: np.ndarray | None) -> np.ndarray:
        draws = [rng.uniform(-1, 1, self.action_dim) for rng in self.rngs]
        return np.array(draws, np.float32)


class AgentPolicy(Policy):
    """A trained agent, conditioned on a return and a prompt.

    Args:
        agent: The agent.
        target: `paper`: the domain's constant. `data`: the task's best return in the data.
        name: Name in tables.
    """

    def __init__(self, agent: Agent, target: str = "paper", name: str = "agent") -> None:
        self.agent = agent
        self.target = target
        self.name = name
        on_cpu = next(agent.model.parameters()).device.type == "cpu"
        self.num_threads = (os.cpu_count() or 1) if on_cpu else 1

    def begin(self, tile: Tile, seed: int) -> Session:
        return _AgentSession(self.agent, tile, self.target_return(tile.task))

    def target_return(self, task: str) -> float:
        """Return the return that the agent is asked for."""
        if self.target == "paper":
            return get_task(task).target_return
        return float(self.agent.context.best_return[self.agent.context.index(task)])


class _AgentSession(Session):
    """The history of a tile: the model sees its last `context_length` steps, exactly."""

    def __init__(self, agent: Agent, tile: Tile, target_return: float) -> None:
        self.agent = agent
        context, index = agent.context, agent.context.index(tile.task)
        self.spec = get_task(tile.task)
        self.device = next(agent.model.parameters()).device
        self.mean = context.state_mean[index].numpy()
        self.std = context.state_std[index].numpy()
        R, horizon = len(tile.episodes), self.spec.horizon
        self.states = np.zeros((R, horizon, STATE_DIM), np.float32)
        self.actions = np.zeros((R, horizon, ACTION_DIM), np.float32)
        self.returns_to_go = np.zeros((R, horizon, 1), np.float32)
        self.remaining = np.full(R, target_return, np.float64)
        self.t = -1
        self.prompt = self._encode(context.prompts, index, tile.episodes)

    @torch.no_grad()
    def _encode(self, prompts: Segment, task: int, episodes: Sequence[int]) -> Prompt:
        """Run each episode's prompt through the model, once for the whole rollout."""
        which = torch.tensor(episodes) % NUM_PROMPTS
        rows = Segment(*(tensor[task][which].to(self.device) for tensor in prompts))
        return self.agent.model.encode_prompt(rows)

    @torch.no_grad()
    def act(self, observations: np.ndarray, rewards: np.ndarray | None) -> np.ndarray:
        self.t += 1
        t, dim = self.t, self.spec.action_dim
        if rewards is not None:
            self.remaining -= rewards
        padded = np.zeros((len(observations), STATE_DIM), np.float32)
        padded[:, : self.spec.state_dim] = observations
        self.states[:, t] = (padded - self.mean) / self.std
        self.returns_to_go[:, t, 0] = self.remaining / self.spec.return_scale
        # The newest action is not chosen yet; zeros stand in, and causality hides them.
        start = max(t + 1 - self.agent.model.config.context_length, 0)
        action = self.agent.model.forward_from(self._window(start, t + 1), self.prompt)
        chosen = action.float().cpu().numpy()[:, :dim]
        self.actions[:, t, :dim] = chosen  # padded dims stay 0, as in training
        return chosen

    def _window(self, start: int, end: int) -> Segment:
        R = len(self.states)
        times = np.arange(start, end).clip(max=self.agent.model.config.max_timesteps - 1)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        return Segment(
            tensor(self.states[:, start:end]),
            tensor(self.actions[:, start:end]),
            tensor(self.returns_to_go[:, start:end]),
            tensor(np.tile(times, (R, 1))),
            torch.ones(R, end - start, device=self.device),
        )
