"""Claims: verdicts from made-up results, their tests, and the sentences that state them."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from m3dt.study import Results, claims, claims_table
from m3dt.study.claims.claim import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    MISSING,
    NOT_IN_PAPER,
    Claim,
    compare,
)
from m3dt.study.estimates import holm, t_tests

RISES = {0: 1.0, 1: 2.0, 2: 3.0}  # p = 0.074
SURELY = {0: 1.0, 1: 1.2, 2: 1.4}  # p = 0.009


def by_seed(*values):
    return dict(enumerate(values))


@pytest.mark.parametrize("slope, expected", [(1.0, HOLDS), (-1.0, FAILS)])
def test_verdicts_follow_the_numbers(made_up, slope, expected):
    """Results that favour every claim, and the same results reversed."""
    found = {claim.name: claim for claim in claims(Results.read(made_up(slope)))}
    assert {name: claim.verdict for name, claim in found.items()} == dict.fromkeys(found, expected)
    for claim in found.values():
        assert claim.result.count("n = 3") == len(claim.differences)
        assert claim.statement() == f"{claim.text}: **{expected}**, {claim.result}."
        assert claim.sentence().startswith(claim.statement())


def test_one_seed_decides_nothing(made_up):
    for claim in claims(Results.read(made_up(seeds=(0,)))):
        assert claim.verdict == INCONCLUSIVE and "(n = 1, no test)" in claim.result


def test_an_unfinished_study_leaves_gaps(made_up):
    file = made_up()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("ablations")))
    found = {claim.name: claim for claim in claims(Results.read(file))}
    assert found["grouping"].verdict == MISSING and found["tasks"].verdict == HOLDS
    assert found["grouping"].statement() == "Task groups beat no groups: **not measured**."
    assert "Not measured:\n\n" in claims_table(Results.read(file))


def test_a_study_of_one_number_of_tasks_compares_no_numbers_of_tasks(made_up, monkeypatch):
    results = Results.read(made_up())
    monkeypatch.setattr(Results, "task_counts", [results.medium])
    names = {claim.name for claim in claims(results)}
    assert names.isdisjoint({"tasks", "drop", "similarity", "growing lead", "control"})
    assert {"backbone", "m3dt-gradient 40", "conflict"} <= names


@pytest.mark.parametrize(
    ("better", "verdict", "numbers"),
    [
        (RISES, INCONCLUSIVE, "2.0 [-0.5, 4.5] points (t test, n = 3, p = 0.074)"),
        (SURELY, HOLDS, "1.2 [0.7, 1.7] points (t test, n = 3, p = 0.009)"),
        ({s: -x for s, x in SURELY.items()}, FAILS,
         "-1.2 [-1.7, -0.7] points (t test, n = 3, p = 0.009)"),
        ({0: 5.0}, INCONCLUSIVE, "5.0 points (n = 1, no test)"),
    ],
)  # fmt: skip
def test_sentences_follow_the_verdict(better, verdict, numbers):
    """Intervals and p by hand: the mean +- 4.303 standard errors, two degrees of freedom."""
    zero = dict.fromkeys(better, 0.0)
    claim = compare("name", "A beats B", "by 3 %", ("A", better), ("B", zero), note="; more")
    assert claim.statement() == f"A beats B: **{verdict}**, {numbers}."
    assert claim.sentence().startswith(f"{claim.statement()} Paper: by 3 %. A: ")
    assert claim.sentence().endswith("; more.")
    own = compare("name", "A beats B", NOT_IN_PAPER, ("A", {}), ("B", {}))
    assert own.sentence().startswith("A beats B: **not measured**. A question of ours.")


def test_several_differences_are_corrected():
    one, other = SURELY, by_seed(1.0, 1.5, 2.2)
    p = [ttest_1samp(list(x.values()), 0).pvalue for x in (one, other)]
    assert 0.05 / 2 < p[1] < 0.05  # significant alone
    several = {"here": one, "there": other}
    assert Claim("both", "Both", "", "", several).verdict == HOLDS  # the larger p counts once
    assert Claim("both", "Both", "", "", {"here": other, "there": other}).verdict == INCONCLUSIVE
    shown = Claim("both", "Both", "", "", several).result
    assert shown == (
        f"1.2 [0.7, 1.7] points here (n = 3, p = {2 * p[0]:.3f}), 1.6 [0.1, 3.1] there "
        f"(n = 3, p = {p[1]:.3f}); t tests, p corrected by Holm for 2"
    )
    worse = {"here": one, "there": {s: -x for s, x in other.items()}}
    assert Claim("both", "Both", "", "", worse).verdict == FAILS
    worse = {"here": RISES, "there": {s: -x for s, x in other.items()}}
    assert Claim("both", "Both", "", "", worse).verdict == INCONCLUSIVE  # 2 p = 0.08
    assert Claim("both", "Both", "", "", {"here": one, "there": {}}).verdict == MISSING
    assert t_tests([one, {0: 3.0}]) == [pytest.approx(p[0]), None]  # no test, nothing to correct


def test_holm_is_closed_testing():
    """Holm's p is the largest Bonferroni p among all subsets of tests with the test in it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    rng = np.random.default_rng(0)
    for count in range(1, 6):
        p = list(rng.uniform(0, 0.3, count))
        subsets = [s for size in range(1, count + 1) for s in combinations(range(count), size)]
        expected = [
            max(min(len(s) * min(p[j] for j in s), 1) for s in subsets if i in s)
            for i in range(count)
        ]
        assert holm(p) == pytest.approx(expected)
    assert holm([]) == []


def test_what_the_paper_claims_is_no_question_of_ours(made_up):
    """Figure 12 and appendix B.2; figure 10; experts of several shapes are our own question."""
    paper = {claim.name: claim.paper for claim in claims(Results.read(made_up()))}
    assert "B.2" in paper["modules"] and "B.2" in paper["module conflict"]
    assert "figure 10" in paper["shape"] and paper["expert shape"] == NOT_IN_PAPER
