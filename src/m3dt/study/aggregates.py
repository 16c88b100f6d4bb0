"""Statistics of scores over runs and tasks, and their bootstrap intervals.

Interquartile mean, performance profile and probability of improvement are defined as in Agarwal et
al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (2021), and rliable.
Statistics take arrays of (..., R, N), so that one call computes them for many resamples.

Letters: R runs (seeds), N tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import trim_mean

from m3dt.utils.intervals import RESAMPLES, Interval, quantile_interval

_VALUES = 2_000_000  # of resamples in memory at a time


@dataclass(frozen=True)
class Measured:
    """A statistic of scores with its 95 % interval, None for one run of one task."""

    value: float
    interval: Interval | None

    def text(self, form: str = ".1f", of_ends: str = ".1f") -> str:
        """Return the statistic and, on a second line, its interval, in formats of numbers."""
        if self.interval is None:
            return f"{self.value:{form}}\n(n = 1)"
        low, high = self.interval
        return f"{self.value:{form}}\n[{low:{of_ends}}, {high:{of_ends}}]"


def mean(scores: np.ndarray) -> np.ndarray:
    """Return the mean of scores, (..., R, N) to (...)."""
    return scores.mean(axis=(-2, -1))


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half of all runs' and tasks' scores, (..., R, N) to (...)."""
    return trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1)


def performance_profile(scores: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the shares of scores above thresholds; scores have any shape."""
    return (scores.ravel()[:, None] > np.asarray(thresholds)).mean(axis=0)


def mean_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the mean of one - other, paired by run and task, (..., R, N) to (...)."""
    return mean(one - other)


def probability_of_improvement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the probability that a run of one beats a run of the other on a task drawn at random.

    On each task, every run of one, (..., R, N), meets every run of the other. A tie counts half.
    """
    one, other = one[..., :, None, :], other[..., None, :, :]
    return ((one > other) + 0.5 * (one == other)).mean(axis=(-3, -2, -1))


def measure(statistic: Callable[..., np.ndarray], *scores: np.ndarray, seed: int = 0) -> Measured:
    """Return a statistic of one or several models' scores, (R, N) each, with its interval.

    The interval is a bootstrap over both axes: runs and tasks are drawn with replacement, the same
    for all models, and each drawn task is seen in each drawn run. A run is drawn whole, because its
    tasks share one training. One run alone gives an interval over tasks, one task over runs.
    """
    value, (R, N) = float(statistic(*scores)), scores[0].shape
    if R * N < 2:
        return Measured(value, None)
    rng = np.random.default_rng(seed)
    runs = rng.integers(0, R, size=(RESAMPLES, R, 1))
    tasks = rng.integers(0, N, size=(RESAMPLES, 1, N))
    step = max(_VALUES // (R * R * N), 1)
    parts = [slice(start, start + step) for start in range(0, RESAMPLES, step)]
    found = [statistic(*(s[runs[part], tasks[part]] for s in scores)) for part in parts]
    return Measured(value, quantile_interval(np.concatenate(found)))


def verdict(difference: Interval | None, margin: float) -> str:
    """Say what the interval of a difference in score shows.

    Models are the same within a margin if the whole interval lies inside it: two one-sided tests,
    each at half of 5 %, reject differences beyond it (the equivalence test of Schuirmann).
    """
    if difference is None:
        return "inconclusive"
    if difference.low > 0:
        return "better"
    if -margin < difference.low and difference.high < margin:
        return f"same within {margin:g}"
    if difference.high < 0 and difference.low <= -margin:
        return "worse" if difference.high >= -margin else f"worse by more than {margin:g}"
    if difference.low > -margin:
        return f"not more than {margin:g} below"
    return "inconclusive"
