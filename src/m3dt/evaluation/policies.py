"""What acts in a rollout: a trained agent, or chance.

Letters: R episodes that run together, T timesteps of history, S state, A action.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from m3dt.agent import Agent
from m3dt.config.schema import ACTION_DIM, STATE_DIM
from m3dt.data.batch import Segment
from m3dt.data.format import NUM_PROMPTS
from m3dt.errors import UserError
from m3dt.models import Prompt, PromptDT
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
        history: `real_dims`: remember zeros in the task's padding of actions. `all_dims`: remember
            what the model said there. `auto`: as suits the agent.
    """

    def __init__(
        self,
        agent: Agent,
        target: str = "paper",
        name: str = "agent",
        history: str = "auto",
    ) -> None:
        self.agent = agent
        self.target = target
        self.name = name
        self.history = agent.history if history == "auto" else history
        # A masked model lives as long as one of its task's tiles is played.
        self._models: WeakValueDictionary[str, PromptDT] = WeakValueDictionary()
        on_cpu = next(agent.model.parameters()).device.type == "cpu"
        self.num_threads = (os.cpu_count() or 1) if on_cpu else 1

    def begin(self, tile: Tile, seed: int) -> Session:
        agent = self.agent_for(tile.task)
        model = self._models.get(tile.task)
        if model is None:
            model = self._models[tile.task] = agent.model_for(tile.task)
        return _AgentSession(agent, model, tile, self.target_return(tile.task), self.history)

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
        target: As for `AgentPolicy`.
        history: As for `AgentPolicy`.

    Raises:
        UserError: A task belongs to several experts.
    """

    def __init__(
        self, experts: Sequence[Agent], target: str = "paper", history: str = "auto"
    ) -> None:
        super().__init__(experts[0], target, "oracle", history)
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


class _AgentSession(Session):
    """The history of a tile: the model sees its last `context_length` steps, exactly."""

    def __init__(
        self, agent: Agent, model: PromptDT, tile: Tile, target_return: float, history: str
    ) -> None:
        self.model = model
        self.history = history
        context, index = agent.context, agent.context.index(tile.task)
        self.spec = get_task(tile.task)
        self.device = next(self.model.parameters()).device
        self.mean = context.state_mean[index].numpy()
        self.std = context.state_std[index].numpy()
        R, horizon = len(tile.episodes), self.spec.horizon
        self.states = np.zeros((R, horizon, STATE_DIM), np.float32)
        self.actions = np.zeros((R, horizon, ACTION_DIM), np.float32)
        self.returns_to_go = np.zeros((R, horizon, 1), np.float32)
        self.remaining = np.full(R, target_return, np.float64)
        self.t = -1
        self.prompt = self._encode(context.prompts, index, tile.episodes)

    @torch.inference_mode()
    def _encode(self, prompts: Segment, task: int, episodes: Sequence[int]) -> Prompt:
        """Run each episode's prompt through the model, once for the whole rollout."""
        which = torch.tensor(episodes) % NUM_PROMPTS
        rows = Segment(*(tensor[task][which].to(self.device) for tensor in prompts))
        number = torch.full((len(episodes),), task, device=self.device)
        return self.model.encode_prompt(rows, number)

    @torch.inference_mode()
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
        start = max(t + 1 - self.model.config.context_length, 0)
        action = self.model.forward_from(self._window(start, t + 1), self.prompt)
        chosen = action.float().cpu().numpy()
        kept = ACTION_DIM if self.history == "all_dims" else dim  # training has zeros behind dim
        self.actions[:, t, :kept] = chosen[:, :kept]
        return chosen[:, :dim]

    def _window(self, start: int, end: int) -> Segment:
        R = len(self.states)
        times = np.arange(start, end).clip(max=self.model.config.max_timesteps - 1)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        return Segment(
            tensor(self.states[:, start:end]),
            tensor(self.actions[:, start:end]),
            tensor(self.returns_to_go[:, start:end]),
            tensor(np.tile(times, (R, 1))),
            torch.ones(R, end - start, device=self.device),
        )
