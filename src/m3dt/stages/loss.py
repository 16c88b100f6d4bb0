"""The masked loss of all stages (paper section 3).

Letters: B batch, T timesteps, A action.
"""

from __future__ import annotations

from torch import Tensor

from m3dt.data.batch import Batch


def row_losses(predictions: Tensor, batch: Batch) -> Tensor:
    """Return each row's weighted squared error over real steps and real action dims, (B,).

    Each weight is 1 / (number of real entries of the row's task), times the task's share of the
    batch, so the sum over a stream's rows is the mean over its tasks.

    Args:
        predictions: Predicted actions, (B, T, A).
        batch: Targets, masks and weights.
    """
    segment = batch.segment
    real = segment.attention_mask[..., None] * batch.action_mask[:, None]  # (B, T, A)
    squared = (predictions.float() - segment.actions).square() * real
    return squared.sum(dim=(1, 2)) * batch.loss_weight
