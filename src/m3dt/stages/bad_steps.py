"""Steps whose loss or gradient is not finite: skipped, counted, and at last the end of training.

Letters: B batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m3dt.data.batch import Batch
from m3dt.utils.errors import RunError

if TYPE_CHECKING:
    from m3dt.stages.stage import Stage

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


def too_many_bad_steps(stage: Stage, batch: Batch, losses: Tensor) -> RunError:
    """Return the error that ends a training; it blames the tasks of rows with a bad loss.

    Args:
        stage: The stage.
        batch: Of the last bad step.
        losses: Of its rows, (B,).
    """
    rows = torch.nonzero(~losses.isfinite()).flatten().tolist()
    blamed = batch.task_index[rows] if rows else batch.task_index
    store = stage.trainer.datamodule.store  # type: ignore[attr-defined]
    tasks = ", ".join(store.tasks[i].spec.name for i in blamed.unique().tolist())
    return RunError(
        f"{stage.title}: loss or gradient is not finite at step {stage.trainer.global_step}, "
        f"after {stage.config.max_bad_steps} such steps were skipped. The batch is of {tasks}"
        f"{f' (rows {rows})' if rows else ''}. The last checkpoint holds finite weights. Lower "
        "the learning rate, or look at the data with `m3dt verify`."
    )
