"""Mean and standard deviation that normalise a task's states.

Letters: S padded state dim, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m3dt.config import LoaderConfig
from m3dt.data.store import TaskStore

_OFFICIAL_OFFSET = 1e-6  # the authors add it to every standard deviation


@dataclass(frozen=True)
class Normalization:
    """Mean and std that normalise one task's padded states, (S,) float32 each."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def padded(cls, mean: np.ndarray, std: np.ndarray, width: int) -> Normalization:
        """Pad statistics of the task's own width, the mean with 0 and the std with 1."""
        padding = (0, width - len(mean))
        mean, std = np.pad(mean, padding), np.pad(std, padding, constant_values=1.0)
        return cls(mean.astype(np.float32), std.astype(np.float32))


def normalizations(
    store: TaskStore, loader: LoaderConfig, width: int
) -> tuple[Normalization, Normalization]:
    """Return the normalisations of a task's training states and of its prompts, of padded width.

    By default, the std has a lower bound, because many Meta-World dimensions are constant: divided
    by 1e-6, any difference in one of them would dwarf all other inputs (docs/deviations.md, 3, 5).
    """
    live = live_normalization(store.state_mean, store.state_std, loader, width)
    prompts = store.observations[store.num_training_steps :]
    return live, prompt_normalization(prompts, live, loader)


def prompt_normalization(
    states: np.ndarray, live: Normalization, loader: LoaderConfig
) -> Normalization:
    """Return the normalisation of prompts.

    Args:
        states: All states of the prompts' trajectories, (T, S).
        live: That of the task's live episodes.
        loader: Says whether prompts have a normalisation of their own.
    """
    if loader.normalization == "floored":
        return live
    states = states.astype(np.float64)
    return live_normalization(states.mean(axis=0), states.std(axis=0), loader, len(live.mean))


def live_normalization(
    mean: np.ndarray, std: np.ndarray, loader: LoaderConfig, width: int
) -> Normalization:
    """Return the normalisation, of padded width, of states with a mean and standard deviation."""
    floored = loader.normalization == "floored"
    bounded = np.maximum(std, loader.std_floor) if floored else std + _OFFICIAL_OFFSET
    return Normalization.padded(mean, bounded, width)
