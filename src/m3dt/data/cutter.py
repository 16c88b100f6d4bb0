"""Cut segments and prompts from recorded trajectories, in array operations.

Letters: B batch, T timesteps, S state dim, A action dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from m3dt.data.inputs import Rows, TaskInputs
from m3dt.tasks import Trajectory


class Recorded(Protocol):
    """Trajectories of one task, concatenated along the first axis, in native widths."""

    @property
    def observations(self) -> np.ndarray:
        """(transitions, S) float32."""

    @property
    def actions(self) -> np.ndarray:
        """(transitions, A) float32."""

    @property
    def rewards(self) -> np.ndarray:
        """(transitions,) float32."""

    @property
    def episode_ends(self) -> np.ndarray:
        """Index after the last transition of each trajectory, (trajectories,) int64."""


class Joined(NamedTuple):
    """Trajectories in memory, as `Recorded`."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    episode_ends: np.ndarray

    @classmethod
    def join(cls, trajectories: Sequence[Trajectory]) -> Joined:
        """Concatenate trajectories of the same widths."""
        return cls(
            np.concatenate([t.observations for t in trajectories], dtype=np.float32),
            np.concatenate([t.actions for t in trajectories], dtype=np.float32),
            np.concatenate([t.rewards for t in trajectories], dtype=np.float32),
            np.cumsum([len(t.rewards) for t in trajectories]),
        )


class TrajectoryCutter:
    """Cuts segments of one task's trajectories."""

    def __init__(self, store: Recorded) -> None:
        self.store = store
        self._starts = np.concatenate(([0], store.episode_ends[:-1]))

    def ends(self, trajectory: np.ndarray, length: int, inputs: TaskInputs) -> Rows:
        """Return the `length` steps before the final one of trajectories, (B,), as prompts are.

        A trajectory that is no longer than `length` is used whole.
        """
        last = self.store.episode_ends[trajectory] - 1
        begin = np.maximum(last - length, self._starts[trajectory])
        return self.segments(trajectory, begin, length, inputs)

    def segments(
        self, trajectory: np.ndarray, begin: np.ndarray, length: int, inputs: TaskInputs
    ) -> Rows:
        """Cut segments, padded on the left to `length`, and prepare them.

        They begin at the transitions `begin`, counted over all of them, of `trajectory`, (B,).
        """
        store = self.store
        count = np.minimum(store.episode_ends[trajectory] - begin, length)
        column = np.arange(length) - (length - count)[:, None]  # (B, T); negative on padding
        real = column >= 0
        column = np.maximum(column, 0)
        index = begin[:, None] + column
        return inputs.prepare(
            store.observations[index],
            store.actions[index],
            self._returns_to_go(trajectory, begin, column),
            index - self._starts[trajectory][:, None],
            real,
        )

    def _returns_to_go(
        self, trajectory: np.ndarray, begin: np.ndarray, column: np.ndarray
    ) -> np.ndarray:
        """Sum the rewards from each step to the end of its trajectory, (B, T) of float64."""
        end = self.store.episode_ends[trajectory]
        ahead = begin[:, None] + np.arange((end - begin).max())  # (B, longest remainder)
        rewards = self.store.rewards[np.minimum(ahead, len(self.store.rewards) - 1)]
        rewards = np.where(ahead < end[:, None], rewards.astype(np.float64), 0.0)
        suffix = rewards[:, ::-1].cumsum(axis=1)[:, ::-1]
        return np.take_along_axis(suffix, column, axis=1)
