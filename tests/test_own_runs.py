"""Runs on tasks of a user's own: collected, trained on, evaluated, resumed, studied."""

import csv
import json
from dataclasses import replace

import numpy as np
import own_tasks
import pytest
from quick_run import QUICK

import m3dt
from m3dt.cli import main
from m3dt.data import DatasetStore
from m3dt.evaluation.run_models import run_model
from m3dt.runs.layout import SCORES
from m3dt.runs.registry import Registry
from m3dt.study.cell_results import sign_results
from m3dt.study.grid import load_study
from m3dt.study.score_table import print_table, write_table
from m3dt.tasks import register_task
from m3dt.tasks.experiment import load_experiment
from m3dt.tasks.registration import own_task
from m3dt.utils.console import make_console

OWN = [*QUICK, "plugins=[own_tasks]", "tasks=[near,far]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Data and a run of all stages on two wide tasks."""
    folder = tmp_path_factory.mktemp("own")
    words = [*OWN, f"data={folder}/data", f"run={folder}/run", "collect.trajectories=8"]
    for command in ("collect", "stage1", "stage2", "stage3"):
        assert main([command, *words]) == 0
    return folder, words


def test_the_data_hold_what_the_score_needs(run):
    folder, _ = run
    store = DatasetStore.open(folder / "data", ["near", "far"])
    index = json.loads((folder / "data/dataset.json").read_text())["tasks"]
    for task in store.tasks:
        # Uniform actions are 2 or more away from the point in the mean, the policy exactly there.
        entry = index[task.spec.name]
        assert entry["made_by"]["behaviour"] == "policy"
        assert task.spec.score == (entry["random_return"], float(task.episode_returns.max()))
        assert entry["random_return"] < -2 * own_tasks.HORIZON
        np.testing.assert_allclose(task.episode_returns[-2:], 0, atol=1e-4)
        assert task.observations.shape[1] == own_tasks.STATES
        assert task.successes[-1] and np.abs(task.actions).max() <= 1


def test_the_model_is_as_wide_as_the_widest_task(run, capsys):
    folder, words = run
    agent = m3dt.load(folder / "run")
    config = agent.model.config
    assert (config.state_dim, config.action_dim) == (own_tasks.STATES, own_tasks.ACTIONS)
    assert agent.context.state_mean.shape == (2, own_tasks.STATES)
    official = load_experiment("mt10").model
    assert (official.state_dim, official.action_dim) == (39, 8)
    given = load_experiment("quickstart", [*words[:-3], "model.state_dim=60"]).model
    assert (given.state_dim, given.action_dim) == (60, own_tasks.ACTIONS)


def test_scores_say_what_they_are_measured_against(run, capsys):
    folder, words = run
    assert main(["evaluate", *words, "--models", "random,backbone", "--json", "-"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)["models"]["backbone"]
    assert list(result["domains"]) == ["reaching"] and list(result["tasks"]) == ["near", "far"]
    assert "random actions score 0 in the mean" in " ".join(printed.err.split())
    spec = m3dt.load(folder / "run").context.spec("near")
    assert spec == DatasetStore.open(folder / "data", ["near"]).tasks[0].spec
    row = result["tasks"]["near"]
    assert row["score"] == pytest.approx(spec.normalized_score(row["return_mean"], False))


def test_a_changed_specification_makes_other_scores_and_other_models(run, capsys):
    """What was stored under the former rules is not taken for theirs."""
    folder, words = run
    evaluated = ["evaluate", *words, "--models", "backbone", "--json", "-"]
    assert main(evaluated) == 0
    before = json.loads(capsys.readouterr().out)["models"]["backbone"]
    near = own_task("near")
    try:
        changed = replace(near.spec, score=(-100.0, 0.0))
        register_task(changed, near.make_env, near.policy)
        assert main(evaluated) == 0
        printed = capsys.readouterr()
        after = json.loads(printed.out)["models"]["backbone"]["tasks"]["near"]
        assert after["return_mean"] == before["tasks"]["near"]["return_mean"]
        assert after["score"] == pytest.approx(100 + after["return_mean"])
        assert "evaluated before" not in printed.err
        register_task(replace(changed, return_scale=50.0), near.make_env, near.policy)
        assert main(["stage1", *words]) == 2
        assert "own_tasks.near was" in capsys.readouterr().err
    finally:
        register_task(near.spec, near.make_env, near.policy)


def test_untrained_policies_score_by_what_the_run_knows(run, tmp_path, capsys):
    """Prompts of other data change no scale within a table."""
    folder, words = run
    other = tmp_path / "other"
    assert main(["collect", *words[:-3], f"data={other}", "collect.trajectories=5"]) == 0
    ranges = []
    for data in (folder / "data", other):
        (store,) = DatasetStore.open(data, ["far"]).tasks
        ranges.append(store.spec.score)
    config = load_experiment("quickstart", [*words, f"evaluation.prompts={other}"])
    for name in ("random", "nothing", "nearest", "backbone"):
        assert run_model(config, name).policy.spec("far").score == ranges[0], name


def test_an_interrupted_training_on_own_tasks_resumes_to_the_same_weights(run, tmp_path):
    folder, words = run
    words = [*words[:-2], f"run={tmp_path}/run"]
    halted = "callbacks.signal={class: moments.SignalAt, step: 30, number: 15}"
    with pytest.raises(SystemExit):
        main(["stage1", *words, halted])
    assert main(["stage1", *words]) == 0
    hashes = [Registry(place / "run").get("backbone", "main").hash for place in (folder, tmp_path)]
    assert hashes[0] == hashes[1]


def test_own_tasks_are_exported_verified_and_described(run, tmp_path, capsys):
    folder, _ = run
    assert main(["verify", f"{folder}/data", "--plugins", "own_tasks"]) == 0
    assert "2 tasks" in capsys.readouterr().out
    assert main(["describe", f"{folder}/data", "--plugins", "own_tasks"]) == 0
    assert "near" in capsys.readouterr().out
    assert main(["verify", f"{folder}/data", "--plugins", "own_task"]) == 2
    assert "--plugins: own_task cannot be imported" in capsys.readouterr().err


def test_a_study_has_columns_for_own_domains(run, tmp_path, capsys):
    """Rows of its table, from scores as an evaluation writes them."""
    folder, words = run
    (tmp_path / "own.yaml").write_text(f"runs: {tmp_path}\ngrid: {{method: [promptdt]}}\n")
    study = load_study(tmp_path / "own.yaml", words[:-2])
    scores = tmp_path / "promptdt" / SCORES
    scores.parent.mkdir()
    assert main(["evaluate", *words, "--models", "backbone", "--json", str(scores)]) == 0
    sign_results(study, study.cells[0])
    write_table(study, tmp_path / "own.csv")
    (row,) = csv.DictReader((tmp_path / "own.csv").open())
    assert float(row["reaching"]) == pytest.approx(float(row["score"]))
    assert row["metaworld"] == "nan"
    capsys.readouterr()
    print_table(study, tmp_path / "own.csv", make_console())
    assert "reaching" in capsys.readouterr().out
