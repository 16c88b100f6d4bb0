"""Statistics over runs and tasks against rliable, scipy, naive computation and simulations."""

import numpy as np
import pytest
from scipy import stats

from m3dt.study.aggregates import (
    interquartile_mean,
    mean,
    mean_difference,
    measure,
    performance_profile,
    probability_of_improvement,
    verdict,
)
from m3dt.utils.intervals import Interval, student_interval

# Three runs of eight tasks, with ties and scores at the ends of the scale.
ONE = np.array(
    [
        [0, 100, 37.5, 62.1, 12.4, 98.2, 55, 0],
        [100, 100, 41.2, 58.8, 9.1, 99.4, 47.5, 0],
        [0, 100, 39.9, 61.3, 15.7, 91.6, 50, 10],
    ]
)
OTHER = np.array(
    [
        [0, 100, 30.5, 64.9, 14.2, 97, 55, 0],
        [0, 0, 41.2, 55.1, 11.3, 99.4, 42.5, 0],
        [100, 100, 28.8, 50.4, 10, 88.3, 52.5, 0],
    ]
)


def test_statistics_are_those_of_rliable():
    """Numbers that rliable 1.2.0 gives for these scores."""
    assert mean(ONE) == pytest.approx(49.57083333333334, abs=1e-6)
    assert mean(OTHER) == pytest.approx(43.37916666666666, abs=1e-6)
    assert interquartile_mean(ONE) == pytest.approx(47.75, abs=1e-6)
    assert interquartile_mean(OTHER) == pytest.approx(38.03333333333333, abs=1e-6)
    assert probability_of_improvement(ONE, OTHER) == pytest.approx(0.611111111111111, abs=1e-6)
    assert probability_of_improvement(OTHER, ONE) == pytest.approx(0.388888888888889, abs=1e-6)
    thresholds = [0, 10, 50, 90, 99]
    expected = [0.8333333333, 0.75, 0.4583333333, 0.2916666667, 0.2083333333]
    np.testing.assert_allclose(performance_profile(ONE, thresholds), expected, atol=1e-6)


def test_many_resamples_at_once_are_each_alone():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, (2, 7, 3, 4)).astype(float)
    for statistic in (mean, interquartile_mean):
        assert statistic(one) == pytest.approx([statistic(scores) for scores in one])
    for statistic in (mean_difference, probability_of_improvement):
        pairs = zip(one, other, strict=True)
        assert statistic(one, other) == pytest.approx([statistic(*pair) for pair in pairs])


def naive_resamples(one, other, count, rng):
    """Draw runs, then tasks, in loops."""
    R, N = one.shape
    for _ in range(count):
        runs, tasks = rng.integers(0, R, R), rng.integers(0, N, N)
        yield tuple(np.array([[s[r, n] for n in tasks] for r in runs]) for s in (one, other))


def test_intervals_are_those_of_a_naive_bootstrap():
    resamples = list(naive_resamples(ONE, OTHER, 3000, np.random.default_rng(1)))
    for statistic, scale in ((mean_difference, 1), (probability_of_improvement, 100)):
        found = measure(statistic, ONE, OTHER)
        assert found.value == pytest.approx(float(statistic(ONE, OTHER)))
        naive = np.quantile([statistic(*pair) for pair in resamples], (0.025, 0.975))
        assert scale * np.array(found.interval) == pytest.approx(scale * naive, abs=2.5)
    found = measure(interquartile_mean, ONE)
    middle = [stats.trim_mean(one, 0.25, axis=None) for one, _ in resamples]
    assert found.interval == pytest.approx(np.quantile(middle, (0.025, 0.975)), abs=3)
    assert found.interval.low >= 0 and found.interval.high <= 100


def trial(rng, shift=3.0):
    """Return differences of 8 runs on 20 tasks: runs and tasks shift them at random."""
    runs, tasks = rng.normal(0, 1, (8, 1)), rng.normal(0, 2, (1, 20))
    return shift + runs + tasks + rng.normal(0, 1, (8, 20))


def test_the_interval_covers_the_truth():
    """95 % intervals hold the mean about as often."""
    rng, held = np.random.default_rng(0), 0
    for seed in range(60):
        low, high = measure(mean, trial(rng), seed=seed).interval
        held += low <= 3 <= high
    assert 50 <= held <= 60


def test_a_run_is_drawn_whole():
    """Where runs alone differ, tasks add no information, however many there are."""
    runs = np.random.default_rng(0).normal(0, 1, (8, 1))
    many, few = (measure(mean, np.repeat(runs, tasks, axis=1)).interval for tasks in (30, 1))
    assert many == pytest.approx(few, abs=0.1)


def test_what_is_shared_cancels():
    hard = np.random.default_rng(0).normal(0, 30, (3, 12))
    assert measure(mean_difference, hard + 1, hard).interval == pytest.approx((1, 1))


def test_one_run_or_one_task_is_resampled_alone():
    values = np.random.default_rng(0).normal(50, 10, 60)
    half = 1.96 * values.std() / 60**0.5
    for scores in (values[None], values[:, None]):
        interval = measure(mean, scores).interval
        assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.2)
    assert measure(mean, values[:1, None]).interval is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 2, "better"),
        (-0.9, 2, "not more than 1 below"),
        (-0.9, -0.2, "same within 1"),
        (-0.9, 0.9, "same within 1"),
        (-1.5, 2, "inconclusive"),
        (-1.5, -0.2, "worse"),
        (-3, -1.2, "worse by more than 1"),
    ],
)
def test_verdicts(low, high, expected):
    assert verdict(Interval(low, high), 1.0) == expected


def test_sameness_is_two_one_sided_tests():
    """Student's interval inside the margin, where both one-sided t tests reject at 2.5 %."""
    rng, same = np.random.default_rng(0), 0
    for _ in range(100):
        differences = rng.normal(-0.5, 2, 12)
        p = max(
            stats.ttest_1samp(differences, -2, alternative="greater").pvalue,
            stats.ttest_1samp(differences, 2, alternative="less").pvalue,
        )
        said = verdict(student_interval(differences), 2.0)
        assert said == "better" or (said == "same within 2") == (p < 0.025)
        same += p < 0.025
    assert 10 < same < 90
