"""When stage 1 stops: once the conflict between the tasks' gradients has peaked (section 4.1).

The paper gives no rule beyond the peak itself. Measured conflict fluctuates from record to record,
since the weights move at a constant learning rate, and it dips before it rises. So a peak must be
higher than fluctuations alone would be, and later records must confirm it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import fmean

import numpy as np

from m3dt.utils.counts import counted

_SERIES = 2000  # that are simulated


@dataclass(frozen=True)
class StoppingRule:
    """What counts as a peak of the conflict, which is measured every so many steps.

    Attributes:
        min_steps: Measurements before this step are not candidates.
        patience: Measurements without a new maximum after which stage 1 may stop.
        window: Number of measurements whose mean is the smoothed conflict.
        significance: Largest probability of the rise to the peak among measurements that only
            fluctuate. Each measurement is tested anew.
    """

    min_steps: int = 0
    patience: int = 5
    window: int = 5
    significance: float = 0.05

    def __post_init__(self) -> None:
        for name in ("patience", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        if not 0 < self.significance <= 1:
            raise ValueError(f"significance={self.significance} must be above 0, at most 1")


@dataclass(frozen=True)
class Judgement:
    """What the rule makes of the measurements so far.

    Attributes:
        rule: The rule.
        peak: Step of the largest smoothed conflict that counts; None before `min_steps`, and with
            fewer measurements than `window`.
        since: Number of measurements after the peak.
        rise: Of the smoothed conflict, from its minimum before the peak to the peak, over windows
            that are whole.
        chance: Probability of such a rise among measurements that only fluctuate.
    """

    rule: StoppingRule
    peak: int | None
    since: int = 0
    rise: float = 0.0
    chance: float = 1.0

    @property
    def stops(self) -> bool:
        """Whether the conflict has risen to a peak and had no new maximum since."""
        return self.peak is not None and self._rose and self.since >= self.rule.patience

    @property
    def _rose(self) -> bool:
        return self.rise > 0 and self.chance <= self.rule.significance

    def reason(self) -> str:
        """Say why there is a peak to stop at, or why there is none."""
        rose = f"it rose by {self.rise:.3f} (by chance with p = {self.chance:.3f})"
        if self.peak is None:
            records = counted(self.rule.window, "record")
            return f"no {records} up to min_steps={self.rule.min_steps} or later"
        if not self._rose:
            return f"{rose}, above significance={self.rule.significance:g}"
        if not self.stops:
            return (
                f"{rose} and was highest at step {self.peak:,}, with "
                f"{counted(self.since, 'record')} since; "
                f"patience={self.rule.patience} asks for more"
            )
        since = counted(self.since, "record")
        return f"{rose} to its peak at step {self.peak:,} and was lower for {since}"


def smooth(conflicts: Sequence[float], window: int) -> list[float]:
    """Return the mean of each measurement and up to `window` - 1 measurements before it."""
    ends = range(1, len(conflicts) + 1)
    return [fmean(conflicts[max(end - window, 0) : end]) for end in ends]


def judge(steps: Sequence[int], conflicts: Sequence[float], rule: StoppingRule) -> Judgement:
    """Find the largest smoothed conflict so far, and whether it could be chance.

    Args:
        steps: Optimiser steps of the measurements, ascending.
        conflicts: 1 - mean_i cos(g_i, G) at these steps, where g_i is the gradient of task i on
            fixed batches and G is the mean of all g_i.
        rule: What counts as a peak.
    """
    whole = np.array(smooth(conflicts, rule.window))[rule.window - 1 :]
    counted = steps[rule.window - 1 :]
    first = next((i for i, step in enumerate(counted) if step >= rule.min_steps), None)
    if first is None:
        return Judgement(rule, None)
    (rise,), (peak,) = _rises(whole[None], first)
    noise = successive_variance(conflicts) ** 0.5
    null = rises_by_chance(len(steps), first, rule.window)
    chance = float((null >= rise / noise).mean()) if noise else 0.0
    return Judgement(rule, counted[peak], len(counted) - 1 - int(peak), float(rise), chance)


@cache
def rises_by_chance(count: int, first: int, window: int) -> np.ndarray:
    """Return the rises to the peaks of simulated measurements: white noise of variance 1.

    Args:
        count: Measurements of a series.
        first: The first whole window that may be the peak.
        window: Of the smoothing.
    """
    noise = np.random.default_rng(0).standard_normal((_SERIES, count))
    sums = np.cumsum(np.pad(noise, ((0, 0), (1, 0))), axis=1)
    return _rises((sums[:, window:] - sums[:, :-window]) / window, first)[0]


def _rises(smoothed: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rises of smoothed series, (series, records), to their peaks, and the peaks."""
    peaks = first + smoothed[:, first:].argmax(axis=1)
    rises = smoothed - np.minimum.accumulate(smoothed, axis=1)
    return rises[np.arange(len(peaks)), peaks], peaks


def successive_variance(values: Sequence[float]) -> float:
    """Return the variance of noise around a slow trend; 0 of a single value.

    It is half the mean squared difference of neighbours (von Neumann).
    """
    return fmean((b - a) ** 2 for a, b in pairwise(values)) / 2 if len(values) > 1 else 0.0
