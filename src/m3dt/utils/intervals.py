"""Intervals at 95 %: Student's t, Wilson's, and quantiles of a bootstrap.

An interval stays inside the range of what it estimates. A single observation has none.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, t

LEVEL = 0.95
RESAMPLES = 10_000  # of a bootstrap


class Interval(NamedTuple):
    """The ends of an interval, and the range of a measure."""

    low: float
    high: float

    def inside(self, limits: "Interval") -> "Interval":
        """Return the part of the interval inside the range of what it estimates.

        A mean lies in its range for certain, so the part covers it as often as the whole.
        """
        low, high = np.clip(self, *limits)
        return Interval(float(low), float(high))


ANYWHERE = Interval(-inf, inf)
SCORES = Interval(0.0, 100.0)  # the range of normalized scores


def student_interval(
    values: Sequence[float] | np.ndarray, within: Interval = ANYWHERE
) -> Interval | None:
    """Return Student's interval of the mean of independent values, None for fewer than two."""
    x = np.asarray(values, float)
    if len(x) < 2:
        return None
    half = student_point(len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return Interval(x.mean() - half, x.mean() + half).inside(within)


def student_point(degrees: int) -> float:
    """Return the two-sided point of Student's t for degrees of freedom."""
    return float(t.ppf((1 + LEVEL) / 2, degrees))


def student_p(values: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided p-value of the t test that values of mean 0 are tested by.

    Without spread among the values it is 0, or 1 if they are all 0.
    """
    x = np.asarray(values, float)
    error = x.std(ddof=1) / len(x) ** 0.5
    if error == 0:
        return float(not x.any())
    return float(2 * t.sf(abs(x.mean()) / error, len(x) - 1))


def wilson_interval(successes: int, trials: int) -> Interval | None:
    """Return Wilson's interval of a success rate in percent, None for fewer than two trials.

    Unlike resampling, it leaves room for a failure after ten successes in ten trials.
    """
    if trials < 2:
        return None
    found = binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return Interval(100 * float(found.low), 100 * float(found.high))


def quantile_interval(resamples: np.ndarray) -> Interval:
    """Return the interval of a statistic from its values in a bootstrap's resamples."""
    low, high = np.quantile(resamples, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(low), float(high))


def two_level_interval(scores: Sequence[np.ndarray], seed: int = 0) -> Interval | None:
    """Return the bootstrap interval of the mean over tasks of each task's mean score.

    Both levels are resampled with replacement: the tasks, and the episodes of each drawn task. For
    a single task, only its episodes are resampled. `scores` has one array per task. None for a
    single episode.
    """
    if sum(map(len, scores)) < 2:
        return None
    rng = np.random.default_rng(seed)
    num_tasks = len(scores)
    # Each slot of a resample draws a task, then episodes of it, whose mean is its value.
    tasks = rng.integers(0, num_tasks, size=(RESAMPLES, num_tasks))
    means = np.empty(tasks.shape)
    for task, episodes in enumerate(scores):
        slots = tasks == task
        draws = rng.integers(0, len(episodes), size=(int(slots.sum()), len(episodes)))
        means[slots] = np.asarray(episodes)[draws].mean(axis=1)
    return quantile_interval(means.mean(axis=1))
