"""Values by seed: their mean with Student's interval, paired differences, gains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from m3dt.utils.intervals import (
    ANYWHERE,
    SCORES,
    Interval,
    student_interval,
    student_p,
    student_point,
)

NOT_MEASURED = "not measured"
Scores = Mapping[int, float]  # by seed


class Ranged(dict[int, float]):
    """Values by seed that lie in a range, by default that of normalized scores."""

    def __init__(self, values: Scores, within: Interval = SCORES) -> None:
        super().__init__(values)
        self.within = within


def range_of(scores: Scores) -> Interval:
    """Return the range in which values by seed lie, as far as it is known."""
    return scores.within if isinstance(scores, Ranged) else ANYWHERE


@dataclass(frozen=True)
class Estimate:
    """A mean of n values and its 95 % interval, None for a single value."""

    mean: float
    interval: Interval | None
    n: int

    def text(self, unit: str = "") -> str:
        """Return the mean with its interval in a unit, and the number of values."""
        if self.interval is None:
            return f"{self.mean:z.1f}{unit} (n = {self.n})"
        low, high = self.interval
        return f"{self.mean:z.1f} [{low:z.1f}, {high:z.1f}]{unit} (n = {self.n})"


def estimate(scores: Scores) -> Estimate | None:
    """Return the mean and Student's interval of one value per seed, or None without values."""
    if not scores:
        return None
    x = np.array(list(scores.values()))
    return Estimate(float(x.mean()), student_interval(x, range_of(scores)), len(x))


def t_tests(several: Sequence[Scores]) -> list[float | None]:
    """Return p of the t test that each mean of values by seed is 0, corrected by Holm.

    Values of a single seed have no test, None, and do not count.
    """
    found = [student_p(list(x.values())) if len(x) > 1 else None for x in several]
    corrected = iter(holm([p for p in found if p is not None]))
    return [None if p is None else next(corrected) for p in found]


def p_text(p: float) -> str:
    """Return a p-value as texts have it, such as `p = 0.021`."""
    return f"p {f'= {p:.3f}' if p >= 0.001 else '< 0.001'}"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down procedure.

    Rejecting what is below 5 % then makes a false rejection in at most 5 % of all cases.
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min((len(p_values) - rank) * p_values[i], 1.0))
        corrected[i] = highest
    return corrected


def minus(a: Scores, b: Scores) -> Scores:
    """Return a - b by seed, for the seeds that both have."""
    (a_low, a_high), (b_low, b_high) = range_of(a), range_of(b)
    differences = {seed: a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())}
    return Ranged(differences, Interval(a_low - b_high, a_high - b_low))


def percent_above(a: Scores, b: Scores) -> Scores:
    """Return by how many percent scores a exceed scores b, for the seeds that both have."""
    percent = {seed: 100 * (a[seed] / b[seed] - 1) for seed in sorted(a.keys() & b.keys())}
    return Ranged(percent, Interval(-100.0, ANYWHERE.high))


def scaled(factor: float, scores: Scores) -> Scores:
    """Return each seed's value times a factor other than 0."""
    low, high = sorted(factor * end for end in range_of(scores))
    return Ranged({seed: factor * value for seed, value in scores.items()}, Interval(low, high))


def format_scores(scores: Scores, unit: str = "") -> str:
    """Return the mean, its interval and the number of seeds as text."""
    found = estimate(scores)
    return NOT_MEASURED if found is None else found.text(unit)


def clustered_estimate(clusters: Sequence[Sequence[float]]) -> Estimate:
    """Return the mean of all values, with an interval over independent clusters of them.

    Values of one cluster, such as the seeds of a task, may depend on each other. Student's t has
    one degree of freedom per cluster, less one. Its `n` is the number of clusters.
    """
    num_clusters, count = len(clusters), sum(map(len, clusters))
    mean = sum(map(sum, clusters)) / count
    if num_clusters < 2:
        return Estimate(mean, None, num_clusters)
    sums = np.array([sum(values) - len(values) * mean for values in clusters])
    error = float(np.sqrt((sums**2).sum() * num_clusters / (num_clusters - 1))) / count
    half = student_point(num_clusters - 1) * error
    return Estimate(mean, Interval(mean - half, mean + half), num_clusters)
