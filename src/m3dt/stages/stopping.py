"""When stage 1 stops: once the conflict between the tasks' gradients has peaked (section 4.1).

The paper gives no rule beyond the peak itself. Measured conflict has noise, of the probe batches
and of the weights, which move from record to record at a constant learning rate; and it dips before
it rises. So a peak must stand out from both noises and be confirmed by later records.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev


@dataclass(frozen=True)
class StoppingRule:
    """What counts as a peak of the conflict, which is measured every so many steps.

    Attributes:
        min_steps: Measurements before this step are not candidates.
        patience: Measurements without a new maximum after which stage 1 may stop.
        window: Number of measurements whose mean is the smoothed conflict.
        min_rise: Least rise of the smoothed conflict from its minimum to the peak, in its standard
            errors.
    """

    min_steps: int = 0
    patience: int = 5
    window: int = 5
    min_rise: float = 2.0

    def __post_init__(self) -> None:
        for name in ("patience", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")


@dataclass(frozen=True)
class Judgement:
    """What the rule makes of the measurements so far.

    Attributes:
        rule: The rule.
        peak: Step of the largest smoothed conflict that counts; None before `min_steps`.
        since: Number of measurements after the peak.
        rise: Of the smoothed conflict, from its minimum before the peak to the peak.
        error: Standard error of `rise`, from the probes and from the records' noise.
    """

    rule: StoppingRule
    peak: int | None
    since: int = 0
    rise: float = 0.0
    error: float = 0.0

    @property
    def stops(self) -> bool:
        """Whether the conflict has risen to a peak and had no new maximum since."""
        return self.peak is not None and self._rose and self.since >= self.rule.patience

    @property
    def _rose(self) -> bool:
        return self.rise > 0 and self.rise >= self.rule.min_rise * self.error

    def reason(self) -> str:
        """Say why there is a peak to stop at, or why there is none."""
        rose = f"rose by {self.rise:.3f} (standard error {self.error:.3f})"
        if self.peak is None:
            return f"no record after min_steps={self.rule.min_steps}"
        if not self._rose:
            return f"it {rose}, less than {self.rule.min_rise:g} standard errors"
        if not self.stops:
            return (
                f"it {rose} and was highest at step {self.peak:,}, with {self.since} records since;"
                f" patience={self.rule.patience} asks for more"
            )
        return f"it {rose} to its peak at step {self.peak:,} and was lower for {self.since} records"


def smooth(conflicts: Sequence[float], window: int) -> list[float]:
    """Return the mean of each measurement and up to `window` - 1 measurements before it."""
    ends = range(1, len(conflicts) + 1)
    return [fmean(conflicts[max(end - window, 0) : end]) for end in ends]


def judge(
    steps: Sequence[int], conflicts: Sequence[Sequence[float]], rule: StoppingRule
) -> Judgement:
    """Find the largest smoothed conflict so far, and how sure its rise is.

    Args:
        steps: Optimiser steps of the measurements, ascending.
        conflicts: At each of these steps, 1 - mean_i cos(g_i, G) on each probe: g_i is the gradient
            of task i on its batch of the probe, G the mean of all g_i.
        rule: What counts as a peak.
    """
    smoothed = smooth([fmean(record) for record in conflicts], rule.window)
    candidates = [i for i, step in enumerate(steps) if step >= rule.min_steps]
    if not candidates:
        return Judgement(rule, None)
    peak = max(candidates, key=smoothed.__getitem__)
    lowest = min(range(peak + 1), key=smoothed.__getitem__)
    by_probe = [smooth(curve, rule.window) for curve in zip(*conflicts, strict=True)]
    rises = [curve[peak] - curve[lowest] for curve in by_probe]
    noise = successive_variance([fmean(record) for record in conflicts])
    error = math.sqrt(standard_error(rises) ** 2 + 2 * noise / rule.window)
    return Judgement(rule, steps[peak], len(steps) - 1 - peak, fmean(rises), error)


def successive_variance(values: Sequence[float]) -> float:
    """Return the variance of noise around a slow trend; 0 of a single value.

    It is half the mean squared difference of neighbours (von Neumann).
    """
    return fmean((b - a) ** 2 for a, b in pairwise(values)) / 2 if len(values) > 1 else 0.0


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; 0 of a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
