"""From trajectories to padded, normalised segments, in array operations.

Letters: B batch, T timesteps, H longest remaining trajectory, S state, A action.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m3dt.config.schema import ACTION_DIM, STATE_DIM, LoaderConfig
from m3dt.data.format import NUM_PROMPTS
from m3dt.data.store import Normalization, TaskStore, normalizations

PADDED_ACTION = -10.0  # never attended to; the value is the paper's code's


@dataclass(frozen=True)
class Rows:
    """Segments as NumPy arrays; the fields are those of `Segment`."""

    states: np.ndarray
    actions: np.ndarray
    returns_to_go: np.ndarray
    timesteps: np.ndarray
    attention_mask: np.ndarray

    def fields(self) -> tuple[np.ndarray, ...]:
        """Return the arrays in the order of `Segment`."""
        return (
            self.states,
            self.actions,
            self.returns_to_go,
            self.timesteps,
            self.attention_mask,
        )

    def take(self, index: np.ndarray | slice) -> Rows:
        """Return the chosen rows."""
        return Rows(*(field[index] for field in self.fields()))


class TaskSampler:
    """Draws segments and prompts of one task."""

    def __init__(self, store: TaskStore, loader: LoaderConfig, max_timesteps: int) -> None:
        self.store = store
        self.normalization, self._prompt_normalization = normalizations(store, loader)
        self.max_timesteps = max_timesteps
        self._starts = store.episode_starts
        self._prompts: dict[int, Rows] = {}  # by length

    def draw(self, rng: np.random.Generator, batch_size: int, length: int) -> Rows:
        """Draw training segments: uniform over transitions, so long trajectories weigh more.

        Each begins at the drawn transition and is at most `length` steps long.
        """
        begin = rng.integers(0, self.store.num_training_steps, size=batch_size)
        trajectory = np.searchsorted(self.store.episode_ends, begin, side="right")
        return self.segments(trajectory, begin, length, self.normalization)

    def draw_prompts(
        self, rng: np.random.Generator, batch_size: int, length: int
    ) -> tuple[Rows, np.ndarray]:
        """Return the task's prompts, and for each of `batch_size` rows which of them it has."""
        if length not in self._prompts:  # there are but two: they are cut once
            self._prompts[length] = self.prompts(np.arange(NUM_PROMPTS), length)
        return self._prompts[length], rng.integers(0, NUM_PROMPTS, size=batch_size)

    def prompts(self, which: np.ndarray, length: int) -> Rows:
        """Return prompts: the last `length` steps before a trajectory's final one (appendix B).

        A trajectory that is no longer than a prompt serves whole.

        Args:
            which: Index of the prompt trajectory, 0 or 1, (B,).
            length: Prompt steps.
        """
        trajectory = len(self._starts) - NUM_PROMPTS + which
        last = self.store.episode_ends[trajectory] - 1
        begin = np.maximum(last - length, self._starts[trajectory])
        return self.segments(trajectory, begin, length, self._prompt_normalization)

    def segments(
        self,
        trajectory: np.ndarray,
        begin: np.ndarray,
        length: int,
        normalization: Normalization,
    ) -> Rows:
        """Cut segments, padded on the left to `length`.

        Args:
            trajectory: Trajectory of each row, (B,).
            begin: First transition of each row, counted over the whole file, (B,).
            length: Steps of a padded segment, T.
            normalization: Of the states.
        """
        store = self.store
        episode_end = store.episode_ends[trajectory]
        count = np.minimum(episode_end - begin, length)
        column = np.arange(length) - (length - count)[:, None]  # (B, T); negative on padding
        real = column >= 0
        index = begin[:, None] + np.maximum(column, 0)

        states = np.zeros((*real.shape, STATE_DIM), np.float32)
        states[..., : store.spec.state_dim] = store.observations[index]
        states[~real] = 0.0
        states -= normalization.mean
        states /= normalization.std
        actions = np.zeros((*real.shape, ACTION_DIM), np.float32)
        actions[..., : store.spec.action_dim] = store.actions[index]
        actions[~real] = PADDED_ACTION

        # Return-to-go: sum of the rewards from a step to the trajectory's end.
        ahead = begin[:, None] + np.arange((episode_end - begin).max())  # (B, H)
        rewards = store.rewards[np.minimum(ahead, len(store.rewards) - 1)].astype(np.float64)
        rewards[ahead >= episode_end[:, None]] = 0.0
        suffix = rewards[:, ::-1].cumsum(axis=1)[:, ::-1]
        returns_to_go = np.take_along_axis(suffix, np.maximum(column, 0), axis=1)
        returns_to_go = np.where(real, returns_to_go / store.spec.return_scale, 0.0)

        timesteps = np.where(real, index - self._starts[trajectory][:, None], 0)
        return Rows(
            states,
            actions,
            returns_to_go.astype(np.float32)[..., None],
            np.minimum(timesteps, self.max_timesteps - 1),
            real.astype(np.float32),
        )
