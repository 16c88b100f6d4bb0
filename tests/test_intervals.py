"""Intervals against scipy, published numbers and simulations; estimates by seed."""

import math

import numpy as np
import pytest
from scipy import stats

from m3dt.study.estimates import (
    Ranged,
    clustered_estimate,
    estimate,
    format_scores,
    minus,
    percent_above,
    range_of,
    scaled,
    t_tests,
)
from m3dt.utils.intervals import (
    SCORES,
    Interval,
    student_interval,
    student_p,
    two_level_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [(10, 10, 72.25, 100.0), (0, 10, 0.0, 27.75), (5, 10, 23.66, 76.34), (81, 263, 25.53, 36.62)],
)
def test_wilson_interval(successes, episodes, low, high):
    """The last is Newcombe's example (1998)."""
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=0.02)


@pytest.mark.parametrize("size", [2, 3, 10, 30])
def test_student_is_scipys(size):
    values = np.random.default_rng(size).normal(1, 3, size)
    found = stats.ttest_1samp(values, 0)
    assert student_interval(values) == pytest.approx(found.confidence_interval(0.95))
    assert student_p(values) == pytest.approx(found.pvalue)


def test_values_without_spread():
    assert student_interval([2.0, 2.0]) == (2, 2)
    assert (student_p([2.0, 2.0]), student_p([0.0, 0.0])) == (0, 1)


def test_intervals_stay_inside_the_range():
    """Three seeds of a score gave [-29, 51]: what is outside 0 to 100 is cut off."""
    seeds = [0.0, 4.0, 29.0]
    low, high = student_interval(seeds)
    assert low < 0 and student_interval(seeds, SCORES) == (0, high)
    assert student_interval([100 - x for x in seeds], SCORES) == (100 - high, 100)
    whole = student_interval([40.0, 50.0, 60.0])
    assert student_interval([40.0, 50.0, 60.0], SCORES) == whole


def test_one_observation_has_no_interval():
    assert student_interval([5.0]) is None and wilson_interval(1, 1) is None
    assert two_level_interval([np.array([5.0])]) is None
    assert two_level_interval([np.array([5.0]), np.array([7.0])]) == (5, 7)
    assert two_level_interval([np.array([5.0, 7.0])]) == (5, 7)


def test_bounded_intervals_cover_the_mean():
    """Five seeds of a score near the end of its scale; Student's t assumes normal values."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = student_interval(100 * rng.beta(2, 8, 5), SCORES)
        assert 0 <= low <= high <= 100
        held += low <= 20 <= high
    assert 0.91 * 400 <= held <= 0.98 * 400


def test_bootstrap_of_one_task_is_the_normal_interval():
    scores = np.random.default_rng(0).normal(50, 10, size=400)
    half = 1.96 * scores.std() / math.sqrt(400)
    expected = scores.mean() - half, scores.mean() + half
    assert two_level_interval([scores]) == pytest.approx(expected, abs=0.1)


def test_bootstrap_covers_tasks_and_episodes():
    """Without spread within tasks, the interval is that of resampling the tasks alone."""
    scores = [np.full(5, value) for value in np.linspace(0, 100, 40)]
    low, high = two_level_interval(scores)
    half = 1.96 * np.linspace(0, 100, 40).std() / math.sqrt(40)
    assert (low, high) == pytest.approx((50 - half, 50 + half), abs=0.7)
    spread = [np.array([0.0, 100.0] * 5) for _ in range(40)]
    low, high = two_level_interval(spread)
    assert high - low == pytest.approx(2 * 1.96 * 50 / math.sqrt(400), abs=0.7)


def test_estimates_name_their_number():
    """Student's interval of 1, 2, 3 is 2 +- 4.303 / sqrt(3)."""
    found = estimate({0: 1.0, 1: 2.0, 2: 3.0})
    half = 4.303 / 3**0.5
    assert (found.mean, found.n) == (2, 3)
    assert found.interval == pytest.approx((2 - half, 2 + half), rel=1e-3)
    assert estimate({}) is None and format_scores({}) == "not measured"
    assert format_scores({0: 2.0}) == "2.0 (n = 1)"
    assert format_scores({0: 1.0, 1: 1.0}, " %") == "1.0 [1.0, 1.0] % (n = 2)"
    assert t_tests([{0: 2.0}]) == [None]
    assert t_tests([{0: 1.0, 1: 2.0, 2: 3.0}]) == [pytest.approx(0.0742, abs=1e-4)]  # t = 2 sqrt(3)
    assert t_tests([{0: 1.0, 1: 1.0}]) == [0]


def test_ranges_follow_from_those_of_the_scores():
    one, other = Ranged({0: 5.0, 1: 7.0, 2: 1.0}), Ranged({1: 4.0, 0: 2.0})
    change = minus(one, other)
    assert change == {0: 3.0, 1: 3.0} and range_of(change) == (-100, 100)
    assert range_of(scaled(-1, percent_above(one, other))) == (-math.inf, 100)
    assert range_of(minus(one, {0: 2.0})) == (-math.inf, math.inf)
    assert estimate(Ranged({0: 0.0, 1: 9.0})).interval.low == 0
    assert estimate(minus(Ranged({0: 0.0, 1: 99.0}), Ranged({0: 0.0, 1: 0.0}))).interval == (
        -100,
        100,
    )


def test_clusters_of_one_value_are_students():
    values = np.random.default_rng(0).normal(2, 5, 12)
    found = clustered_estimate([[value] for value in values])
    assert found.interval == pytest.approx(student_interval(values))
    assert clustered_estimate([[1.0, 3.0]]).interval is None


def test_repeats_in_a_cluster_add_nothing():
    values = np.random.default_rng(0).normal(2, 5, 12)
    once, thrice = (clustered_estimate([[v] * n for v in values]) for n in (1, 3))
    assert thrice.interval == pytest.approx(once.interval) and isinstance(once.interval, Interval)
