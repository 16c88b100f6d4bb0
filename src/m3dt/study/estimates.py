"""Means over seeds with 95 % intervals, and paired differences."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

NOT_MEASURED = "not measured"
Scores = Mapping[int, float]  # by seed

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval, which is NaN for a single seed."""

    mean: float
    low: float
    high: float
    seeds: int

    def text(self, unit: str = "") -> str:
        """Return the mean with its interval, in a unit."""
        if self.seeds < 2:
            return f"{self.mean:z.1f}{unit} (one seed)"
        return f"{self.mean:z.1f} [{self.low:z.1f}, {self.high:z.1f}]{unit}"


def estimate(values: Iterable[float]) -> Estimate | None:
    """Return the mean and Student's interval of one value per seed, or None without values."""
    x = np.array(list(values), float)
    if not len(x):
        return None
    if len(x) == 1:
        return Estimate(float(x[0]), float("nan"), float("nan"), 1)
    half = _T[min(len(x) - 2, len(_T) - 1)] * x.std(ddof=1) / len(x) ** 0.5
    return Estimate(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x))


def minus(a: Scores, b: Scores) -> dict[int, float]:
    """Return a - b by seed, for the seeds that both have."""
    return {seed: a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())}


def percent_above(a: Scores, b: Scores) -> dict[int, float]:
    """Return by how many percent a exceeds b, for the seeds that both have."""
    return {seed: 100 * (a[seed] / b[seed] - 1) for seed in sorted(a.keys() & b.keys())}


def scaled(factor: float, scores: Scores) -> dict[int, float]:
    """Return each seed's value times a factor."""
    return {seed: factor * value for seed, value in scores.items()}


def format_scores(scores: Scores, unit: str = "") -> str:
    """Return the mean and interval over seeds as text."""
    found = estimate(scores.values())
    return NOT_MEASURED if found is None else found.text(unit)
