"""Recorded episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trajectory:
    """One recorded episode: observations (T, S), actions (T, A), rewards (T,).

    `success` is None if the source did not record it.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: bool | None

    @property
    def episode_return(self) -> float:
        """Sum of the rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    def __repr__(self) -> str:
        return f"Trajectory(steps={len(self.rewards)}, return={self.episode_return:.1f})"
