"""Steps whose loss or gradient is not finite: skipped, counted, and at last the end of training.

Letters: B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

# In float16, gradients overflow now and then: the scaler skips such a step and halves its factor.
# After 20 halvings in a row, the factor is not the cause.
_MOST_OVERFLOWS = 20


class BadSteps:
    """Tells bad steps from good ones.

    Attributes:
        count: Bad steps so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._overflows = 0  # of float16 gradients, in a row

    def is_good(self, loss: Tensor, norm: Tensor, float16: bool) -> bool:
        """Tell whether the optimiser may take a step.

        Args:
            loss: Of the step.
            norm: Of its gradient.
            float16: Whether gradients are scaled, so that the scaler skips their overflows.
        """
        self._overflows = 0 if norm.isfinite() else self._overflows + 1
        overflow = float16 and self._overflows <= _MOST_OVERFLOWS and bool(loss.isfinite())
        return bool(norm.isfinite()) or overflow


def blame(row_losses: Tensor, tasks: list[str]) -> str:
    """Return the tasks of rows whose own loss is not finite, or all tasks of the batch.

    Args:
        row_losses: (B,).
        tasks: Names of the rows' tasks, B of them.
    """
    rows = torch.nonzero(~row_losses.isfinite()).flatten().tolist()
    names = ", ".join(dict.fromkeys(tasks[row] for row in rows or range(len(tasks))))
    return f"{names} (rows {rows})" if rows else names
