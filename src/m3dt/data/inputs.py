"""Prepare a model's inputs from native arrays: pad, normalise and scale them.

Training segments, prompts and the windows of live episodes all pass through `TaskInputs.prepare`,
so that training and acting see the same values.

Letters: B batch, T timesteps, S state dim, A action dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from m3dt.config import ModelConfig
from m3dt.data.batch import Segment
from m3dt.data.normalization import Normalization

PADDED_ACTION = -10.0  # the authors' value; padding steps are never attended to


class Rows(NamedTuple):
    """Segments as NumPy arrays; the fields are those of `Segment`."""

    states: np.ndarray
    actions: np.ndarray
    returns_to_go: np.ndarray
    timesteps: np.ndarray
    attention_mask: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """Return the rows of several segments, in their order."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def are_finite(self) -> bool:
        """Tell whether all states, actions and returns are finite."""
        return all(np.isfinite(field).all() for field in self[:3])

    def take(self, index: np.ndarray | slice) -> Rows:
        """Return the chosen rows."""
        return Rows(*(field[index] for field in self))

    def segment(self, device: torch.device | str = "cpu") -> Segment:
        """Return the rows as contiguous tensors."""
        arrays = (np.ascontiguousarray(field) for field in self)
        return Segment(*(torch.from_numpy(array).to(device) for array in arrays))


@dataclass(frozen=True)
class TaskInputs:
    """Prepares the inputs of one task."""

    normalization: Normalization  # of the states
    return_scale: float  # divisor of the returns-to-go
    model: ModelConfig  # its widths, what it sees of returns, the rows of its timestep table

    def prepare(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        returns_to_go: np.ndarray,
        timesteps: np.ndarray,
        real: np.ndarray,
    ) -> Rows:
        """Return padded, normalised and scaled rows.

        Values of padding steps are ignored: states become zero before they are normalised, actions
        `PADDED_ACTION`, returns-to-go and timesteps zero. Returns-to-go are zero everywhere for a
        model that is not conditioned on them. Timesteps past the model's table share its last row.

        Args:
            states: (B, T, S) of the task's native width.
            actions: (B, T, A) of the task's native width, or padded already.
            returns_to_go: (B, T) of float64, unscaled.
            timesteps: Steps since the start of the episode, (B, T).
            real: Which steps are not padding, (B, T) of bool.
        """
        padded_states = np.zeros((*real.shape, self.model.state_dim), np.float32)
        padded_states[..., : states.shape[-1]] = states
        padded_states[~real] = 0.0
        padded_states -= self.normalization.mean
        padded_states /= self.normalization.std
        padded_actions = np.zeros((*real.shape, self.model.action_dim), np.float32)
        padded_actions[..., : actions.shape[-1]] = actions
        padded_actions[~real] = PADDED_ACTION
        shown = real & self.model.condition_on_return
        scaled_returns = np.where(shown, returns_to_go / self.return_scale, 0.0)
        return Rows(
            padded_states,
            padded_actions,
            scaled_returns.astype(np.float32)[..., None],
            np.where(real, np.minimum(timesteps, self.model.max_timesteps - 1), 0),
            real.astype(np.float32),
        )
