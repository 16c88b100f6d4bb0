"""Acting by prompts in tasks that a run was not trained on."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import write_dataset
from quick_run import TASKS, call

import m3dt
from m3dt.cli import main
from m3dt.config import EvaluationConfig, LoaderConfig
from m3dt.data import DatasetStore
from m3dt.data.prompted_task import UNSEEN, PromptedTask
from m3dt.evaluation import AgentPolicy, evaluate_policy
from m3dt.evaluation.neighbours import NearestPolicy
from m3dt.evaluation.sessions import EpisodeGroup
from m3dt.utils.console import make_console
from m3dt.utils.errors import UserError

TASK = "cheetah-vel-5"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A dataset of a task that the run was not trained on, and one that it was trained on."""
    return write_dataset(tmp_path_factory.mktemp("unseen"), [TASK, TASKS[1]])


def test_statistics_and_prompts_are_of_the_given_data(finished, other):
    agent = m3dt.load(finished, "backbone").prompted_by(str(other), 0.0, [TASK])
    task, (store,) = agent.task(TASK), DatasetStore.open(other, [TASK]).tasks
    assert task.index == UNSEEN and task.spec is store.spec
    states = store.observations[: store.num_training_steps].astype(np.float64)
    std = np.maximum(states.std(axis=0), LoaderConfig().std_floor)
    for normalization in (task.inputs.normalization, task.prompt_normalization):
        np.testing.assert_allclose(normalization.mean[: states.shape[1]], states.mean(axis=0), 1e-5)
        np.testing.assert_allclose(normalization.std[: states.shape[1]], std, 1e-5)
    lowest = np.argsort(store.episode_returns)[:2]  # a share of 0 asks for the lowest returns
    for row, trajectory in enumerate(lowest):
        raw = store.observations[store.episode_ends[trajectory] - 2]
        found = task.prompts.states[row, -1].numpy()
        expected = (raw - states.mean(axis=0)) / std
        np.testing.assert_allclose(found[: len(raw)], expected, rtol=1e-4, atol=1e-5)
        assert not found[len(raw) :].any()


def test_a_run_is_evaluated_where_it_was_not_trained(finished, other, tmp_path, capsys):
    """By its own configuration, with other data; the scores are those of the agent described."""
    words = [f"tasks=[{TASK}]", "evaluation.episodes=2", "evaluation.workers=1"]
    words += ["--run", str(finished), "--prompts", str(other), "--models", "backbone"]
    assert main(["evaluate", *words, "--json", str(tmp_path / "scores.json")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Not trained on: prompts and normalisation are from {other}" in printed
    (found,) = json.loads((tmp_path / "scores.json").read_text())["models"].values()
    rules = EvaluationConfig(episodes=2, tile=1, workers=1)
    (store,) = DatasetStore.open(other, [TASK]).tasks
    agent = m3dt.load(finished, "backbone")
    task = PromptedTask.from_store(store, agent.model.config, agent.loader)
    task = task.prompted_by(store, 1.0, agent.loader)
    policy = AgentPolicy(agent.with_task(task), rules)
    played = evaluate_policy(policy, [TASK], rules, make_console())
    assert found["tasks"][TASK] == played["tasks"][TASK]
    assert main(["evaluate", *words]) == 0
    assert "evaluated before" in capsys.readouterr().out


def test_mistakes_are_one_message(finished, other, data, tmp_path, capsys):
    def error_of(*words):
        assert main(["evaluate", "--run", str(finished), "evaluation.episodes=1", *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Traceback" not in error
        return error

    prompts = ["--prompts", str(other)]
    both = f"tasks=[{TASK},{TASKS[1]}]"
    assert f"Evaluate them apart: tasks=[{TASK}]" in error_of(
        both, *prompts, "--models", "backbone"
    )
    assert "give evaluation.prompts=DATA" in error_of(f"tasks=[{TASK}]", "--models", "backbone")
    assert "no expert was trained on" in error_of(f"tasks=[{TASK}]", *prompts, "--models", "oracle")
    assert main(["evaluate", "--run", str(tmp_path)]) == 2
    assert "no run of m3dt" in capsys.readouterr().err


def test_a_method_with_a_part_per_task_refuses(data, other, tmp_path, capsys):
    run = tmp_path / "run"
    few = ["method=mtdt", "baseline.max_steps=2"]
    assert call("train", run, data, *few) == 0
    capsys.readouterr()
    words = ["--run", str(run), f"tasks=[{TASK}]", "--prompts", str(other)]
    assert main(["evaluate", *words]) == 2
    assert "a part of its own for each task" in capsys.readouterr().err


@pytest.mark.parametrize("normalization", ["floored", "official"])
def test_an_unseen_task_is_normalised_as_in_training(finished, other, normalization):
    agent = m3dt.load(finished, "backbone")
    loader = {**agent.entry.settings["loader"], "normalization": normalization, "std_floor": 1.0}
    settings = {**agent.entry.settings, "loader": loader}
    agent = replace(agent, entry=replace(agent.entry, settings=settings))
    (store,) = DatasetStore.open(other, [TASK]).tasks
    std = store.state_std
    assert (std < 1.0).any()
    expected = np.maximum(std, 1.0) if normalization == "floored" else std + 1e-6
    task = agent.prompted_by(str(other), 1.0, [TASK]).task(TASK)
    width = store.spec.state_dim
    np.testing.assert_allclose(task.inputs.normalization.std[:width], expected, rtol=1e-6)
    own = PromptedTask.from_store(store, agent.model.config, agent.loader)
    best, count = np.argsort(-store.episode_returns)[:2], len(store.episode_ends)
    for found, prompts in ((task, best), (own, (count - 2, count - 1))):
        if normalization == "official":  # the two prompts' own
            spans = [slice(store.episode_starts[i], store.episode_ends[i]) for i in prompts]
            states = np.concatenate([store.observations[span] for span in spans])
            expected = states.astype(np.float64).std(axis=0) + 1e-6
        np.testing.assert_allclose(found.prompt_normalization.std[:width], expected, rtol=1e-5)
        last = store.observations[store.episode_ends[prompts[0]] - 2]
        shown = (last - found.prompt_normalization.mean[:width]) / expected
        np.testing.assert_allclose(found.prompts.states[0, -1, :width], shown, rtol=1e-3, atol=1e-5)
    states = np.random.default_rng(0).normal(scale=(0.1, 2.0), size=(30, 2))
    recorded = m3dt.Trajectory(states, np.zeros((30, 1)), np.ones(30), False)
    (shown,) = agent.actor(prompt=recorded)._policy.agent.described
    std = states.std(axis=0)
    expected = np.maximum(std, 1.0) if normalization == "floored" else std + 1e-6
    np.testing.assert_allclose(shown.inputs.normalization.std[:2], expected, rtol=1e-5)


def test_a_task_that_is_too_wide_is_refused(finished, tmp_path):
    import own_tasks  # noqa: F401  # registers them

    wide = write_dataset(tmp_path / "wide", ["near"])
    index = json.loads((wide / "dataset.json").read_text())
    index["tasks"]["near"]["random_return"] = -100.0
    (wide / "dataset.json").write_text(json.dumps(index))
    agent = m3dt.load(finished, "backbone")
    with pytest.raises(UserError, match="near has 45 state and 10 action dimensions; the model"):
        agent.prompted_by(str(wide), 1.0, ["near"])


def test_the_nearest_recorded_state_gives_the_action(other):
    """Against a search over all states of the best trajectories."""
    (store,) = DatasetStore.open(other, [TASK]).tasks
    policy = NearestPolicy([store], LoaderConfig(std_floor=1.0))
    std = np.maximum(store.state_std, 1.0)
    assert (std == 1.0).any()
    best = np.argsort(-store.episode_returns)[:2]  # a fifth of six trajectories, two at least
    rows = np.concatenate([np.arange(store.episode_starts[i], store.episode_ends[i]) for i in best])
    rng = np.random.default_rng(0)
    seen = store.observations[rng.choice(rows, 9)] + rng.normal(0, 0.3, (9, store.spec.state_dim))
    session = policy.begin(EpisodeGroup(TASK, tuple(range(9))), 0)
    session.observe(seen, None)
    (found,) = policy.act([session])
    for state, action in zip(seen, found, strict=True):
        distances = np.linalg.norm((store.observations[rows] - state) / std, axis=1)
        np.testing.assert_array_equal(action, store.actions[rows[distances.argmin()]])


def test_the_nearest_neighbour_is_evaluated_by_name(finished, other, capsys):
    words = ["--run", str(finished), f"tasks=[{TASK}]", "--prompts", str(other)]
    assert main(["evaluate", *words, "evaluation.workers=1", "--models", "nearest"]) == 0
    printed = capsys.readouterr().out
    assert "nearest" in printed and TASK in printed
