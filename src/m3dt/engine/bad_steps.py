"""Steps whose loss or gradient is not finite: skipped, counted, and at last the end of training."""

import math

# In float16, gradients overflow now and then: the scaler skips such a step and halves its factor.
# After 20 halvings in a row, the factor is not the cause.
_MOST_OVERFLOWS = 20


class BadSteps:
    """Tells bad steps from good ones.

    Attributes:
        count: Bad steps so far.
        overflows: Gradients in a row, up to now, that were not finite.
    """

    def __init__(self) -> None:
        self.count = 0
        self.overflows = 0

    def is_bad(self, loss: float, norm: float, float16: bool) -> bool:
        """Count a step if its loss or gradient is not finite, and tell whether it is so.

        Args:
            loss: Of the step.
            norm: Of its gradient.
            float16: Whether gradients are scaled, so that the scaler skips their overflows.
        """
        self.overflows = 0 if math.isfinite(norm) else self.overflows + 1
        overflow = float16 and self.overflows <= _MOST_OVERFLOWS and math.isfinite(loss)
        bad = not (math.isfinite(norm) or overflow)
        self.count += bad
        return bad
