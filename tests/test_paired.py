"""Paired comparisons over runs and tasks."""

import json

import numpy as np
import pytest

from m3dt.cli import main
from m3dt.study.paired import Difference, paired_difference


def test_the_interval_covers_the_truth():
    """Runs and tasks shift differences at random: 95 % intervals hold their mean about as often."""
    rng, held = np.random.default_rng(0), 0
    for trial in range(60):
        runs, tasks = rng.normal(0, 1, (8, 1)), rng.normal(0, 2, (1, 20))
        one = 3 + runs + tasks + rng.normal(0, 1, (8, 20))
        found = paired_difference(one, np.zeros((8, 20)), seed=trial)
        held += found.low <= 3 <= found.high
    assert 50 <= held <= 60


def test_a_constant_difference_has_no_spread():
    found = paired_difference(np.full((3, 4), 5.0), np.full((3, 4), 7.0))
    assert (found.mean, found.low, found.high) == (-2, -2, -2)


def test_what_is_shared_cancels():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 30, (3, 12))
    found = paired_difference(hard + 1, hard)
    assert found.low == pytest.approx(1) and found.high == pytest.approx(1)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 2, "better"),
        (-0.9, 2, "not more than 1 below"),
        (-0.9, -0.2, "not more than 1 below"),
        (-1.5, 2, "cannot be told"),
        (-1.5, -0.2, "worse"),
        (-3, -1.2, "worse by more than 1"),
    ],
)
def test_verdicts(low, high, verdict):
    assert Difference((low + high) / 2, low, high).verdict(1.0) == verdict


def write_scores(run, model, scores):
    (run / "evaluation").mkdir(parents=True, exist_ok=True)
    tasks = {task: {"score": score} for task, score in scores.items()}
    result = {"tasks": tasks, "flops_per_action": 2e6, "ms_per_action": 0.5}
    (run / "evaluation" / f"{model}.json").write_text(json.dumps({"key": "", "result": result}))


def test_runs_and_the_table_of_them_say_the_same(tmp_path, capsys):
    for seed in range(2):
        write_scores(tmp_path / str(seed), "backbone", {"a": 50, "b": 20 + seed})
        write_scores(tmp_path / str(seed), "router", {"a": 54, "b": 22 + seed})
    write_scores(tmp_path / "0", "oracle", {"a": 1, "b": 2})  # not in every run: left out
    runs, table = [str(tmp_path / "0"), str(tmp_path / "1")], tmp_path / "scores.csv"
    assert main(["compare", *runs, "--against", "backbone", "--csv", str(table)]) == 0
    first = capsys.readouterr().out
    assert "+3.0 [+2.0, +4.0]" in first and "better" in first and "oracle" not in first
    assert main(["compare", str(table), "--against", "backbone"]) == 0
    assert capsys.readouterr().out == first


def test_missing_scores_are_named(tmp_path, capsys):
    write_scores(tmp_path / "0", "backbone", {"a": 1})
    assert main(["compare", str(tmp_path / "0"), "--against", "bakbone"]) == 2
    assert "Did you mean 'backbone'" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "1"), "--against", "backbone"]) == 2
    assert "holds no scores" in capsys.readouterr().err
    given = ["--against", "backbone", "--models", "router"]
    assert main(["compare", str(tmp_path / "0"), *given]) == 2
    assert "router: it lacks scores" in capsys.readouterr().err
