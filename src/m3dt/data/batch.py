"""What a model is given.

Letters: B batch, T timesteps, P prompt steps, Q distinct prompts, S state, A action.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Segment(NamedTuple):
    """Consecutive timesteps of trajectories, padded on the left."""

    states: Tensor  # (B, T, S), normalised
    actions: Tensor  # (B, T, A)
    returns_to_go: Tensor  # (B, T, 1), divided by the task's return scale
    timesteps: Tensor  # (B, T) of int64
    attention_mask: Tensor  # (B, T), 1 for real steps

    def take(self, rows: Tensor) -> Segment:
        """Return the chosen rows."""
        return Segment(*(tensor[rows] for tensor in self))


class Batch(NamedTuple):
    """Segments with their prompts and what the loss needs to know."""

    segment: Segment
    prompt: Segment  # (Q, P, ...), distinct ones
    prompt_rows: Tensor  # (B,) of int64, which of them each row has
    action_mask: Tensor  # (B, A), 1 for the task's real action dimensions
    loss_weight: Tensor  # (B,), weight of a row's squared errors; over a stream they make a mean
    task_index: Tensor  # (B,) of int64, position in the suite

    def row_prompts(self) -> Segment:
        """Return each row's prompt, (B, P, ...)."""
        return self.prompt.take(self.prompt_rows)
