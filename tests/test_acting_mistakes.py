"""Mistakes of a caller of `actor`, `act` and `evaluate`."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SYNTHETIC_TASKS
from random_agents import MODEL, trajectories

import m3dt
from m3dt.config import EvaluationConfig
from m3dt.evaluation import evaluator
from m3dt.evaluation.sessions import EpisodeGroup
from m3dt.models import PromptDT
from m3dt.utils.errors import RunError, UserError

PROMPTS = trajectories(np.random.default_rng(0), (5, 5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((np.ones(38), 1.0), r"reach-v2, step 1: the observation has shape \(38,\), expected"),
        ((np.ones((2, 39)), 1.0), r"observation has shape \(2, 39\), expected \(1, 39\)"),
        ((np.full(39, np.nan), 1.0), "step 1: the observation holds a value that is not finite"),
        ((np.full(39, 1e39), 1.0), "the observation holds 1e\\+39, beyond"),
        (({"state": 1}, 1.0), "the observation must be one array of numbers"),
        ((None, 1.0), "the observation"),
        ((np.ones(39),), r"step 1: give the reward of the previous action, act\(observation, rew"),
        ((np.ones(39), np.inf), "the reward holds a value that is not finite"),
        ((np.ones(39), [1.0, 2.0]), r"the reward has shape \(2,\), expected \(1,\) or \(\)"),
        ((np.ones(39), 1.0, [True, False]), r"done has shape \(2,\) of bool, expected \(1,\)"),
        ((np.ones(39), 1.0, 1), r"done has shape \(1,\) of int64, expected \(1,\) of bool"),
        ((np.ones(39), 1.0, True), r"all episodes have ended; reset\(\) begins new ones"),
    ],
)
def test_a_mistake_is_named_and_forgotten(agents, given, message):
    """What is wrong with a call leaves no trace in the memory."""
    actor, twin = (agents["token"].actor("reach-v2") for _ in range(2))
    for each in (actor, twin):
        each.act(np.zeros(39))
    with pytest.raises(UserError, match=message):
        actor.act(*given)
    np.testing.assert_array_equal(*(each.act(np.ones(39), 0.5) for each in (actor, twin)))


def test_a_reward_before_the_first_action_is_refused(agents):
    with pytest.raises(UserError, match="step 0: no action has been rewarded yet"):
        agents["token"].actor("reach-v2").act(np.ones(39), 0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give the name of a task, or else prompt=Trajectory"),
        ({"task": "reach-v2", "prompt": PROMPTS}, "give the name of a task, or else"),
        ({"task": "sweep-v2"}, "was not trained on 'sweep-v2'"),
        ({"task": "reach-v2", "return_scale": 3.0}, "return_scale goes with a prompt"),
        ({"task": "reach-v2", "target": np.nan}, "target=nan must be a finite number"),
        ({"task": "reach-v2", "target": "x"}, "target='x' must be a finite number"),
        ({"task": "reach-v2", "episodes": "2"}, "episodes='2' must be a whole number"),
        ({"task": "reach-v2", "seed": 0.5}, "seed=0.5 must be a whole number"),
        ({"task": "reach-v2", "config": {}}, r"config=\{\}: give m3dt.config.EvaluationConfig"),
        ({"task": 3}, "was not trained on '3'"),
        ({"prompt": 3}, "prompt 0 is of type int: give m3dt.tasks.Trajectory"),
        ({"prompt": PROMPTS, "return_scale": "x"}, "return_scale='x' must be a finite number"),
        ({"task": "reach-v2", "episodes": 0}, "episodes=0 must be 1 or more"),
        ({"task": "reach-v2", "seed": -1}, "seed=-1 must be 0 or more"),
        ({"prompt": []}, "give at least one Trajectory"),
        ({"prompt": [np.ones(3)]}, "prompt 0 is of type ndarray: give m3dt.tasks.Trajectory"),
        ({"prompt": PROMPTS, "return_scale": 0.0}, "return_scale=0.0: must be finite and pos"),
        ({"prompt": PROMPTS, "config": EvaluationConfig(prompts="data/x")}, "contradict each oth"),
    ],
)
def test_what_no_actor_can_be_made_of_is_refused(agents, given, message):
    with pytest.raises(UserError, match=message):
        agents["token"].actor(**given)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("observations", np.ones((5, 40)), "prompt 0 has 40 state and 3 action dimensions; the mo"),
        ("observations", np.ones((5, 12)), "prompt 1 has 11 state .*prompt 0 has 12 and 3"),
        ("observations", np.ones(5), r"shapes \(5,\), \(5, 3\) and \(5,\), expected"),
        ("observations", np.ones((5, 0)), r"shapes \(5, 0\), \(5, 3\) and \(5,\), expected"),
        ("rewards", np.ones(4), r"\(5, 3\) and \(4,\), expected \(steps, states\)"),
        ("actions", np.full((5, 3), np.nan), "prompt 0: 'actions' holds a value that is not fin"),
        ("rewards", np.full(5, 1e11), r"prompt 0: 'rewards' holds 1e\+11, beyond 1e\+10"),
        ("actions", [["a"] * 3] * 5, "prompt 0: 'actions' must be one array of numbers"),
        ("actions", None, "prompt 0: 'actions' holds a value that is not finite"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_prompt_that_cannot_be_right_is_refused(agents, name, array, message):
    first, second = PROMPTS
    with pytest.raises(UserError, match=message):
        agents["token"].actor(prompt=[replace(first, **{name: array}), second])


def test_an_action_that_is_not_finite_is_an_error(agents):
    agent = make_broken(agents["token"])
    with pytest.raises(RunError, match="reach-v2, episode 0, step 0: the action is not finite"):
        agent.actor("reach-v2").act(np.ones(39))


def make_broken(agent):
    model = PromptDT(MODEL).eval()
    model.predict_action.weight.data[:] = torch.nan
    return replace(agent, model=model)


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ("reach-v2", ["reach-v2"]),
        ("walker-walk, reach-v2", ["walker-walk", "reach-v2"]),
        (("ant-dir-3",), ["ant-dir-3"]),
        ([" ant-dir-3 "], ["ant-dir-3"]),
        (None, list(SYNTHETIC_TASKS)),
    ],
)
def test_evaluate_takes_what_a_person_writes(agents, monkeypatch, tasks, expected):
    evaluated = []
    monkeypatch.setattr(evaluator, "evaluate_policy", lambda p, names, *a: evaluated.append(names))
    monkeypatch.setattr(evaluator, "AgentPolicy", lambda *a, **k: None)
    with pytest.raises(TypeError, match="NoneType"):  # the result of no evaluation
        m3dt.evaluate(agents["token"], tasks)
    assert evaluated == [expected]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("", "name one task or more"),
        ("reach-v2,", "name one task or more"),
        ([], "name one task or more"),
        ([3], "name one task or more"),
        (3, "name one task or more"),
        ("reach-v2,reach-v2", "reach-v2 is listed more than once"),
        ("reach-v2 walker-walk", "was not trained on 'reach-v2 walker-walk'"),
        ("reach", "was not trained on 'reach'. Did you mean 'reach-v2'?"),
    ],
)
def test_evaluate_refuses_what_names_no_tasks(agents, tasks, message):
    with pytest.raises(UserError, match=re.escape(message)):
        m3dt.evaluate(agents["token"], tasks)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"episodes": "3"}, "episodes='3' must be a whole number"),
        ({"episodes": 2.5}, "episodes=2.5 must be a whole number"),
        ({"episodes": 0}, "episodes=0 must be 1 or more"),
        ({"config": {"seed": 1}}, r"config={'seed': 1}: give m3dt.config.EvaluationConfig"),
    ],
)
def test_evaluate_refuses_other_values(agents, given, message):
    with pytest.raises(UserError, match=message):
        m3dt.evaluate(agents["token"], **given)


@pytest.mark.parametrize(
    ("given", "expected"), [({}, 2), ({"episodes": 3}, 3), ({"config": None}, 10)]
)
def test_a_number_of_episodes_is_the_callers_or_that_of_the_rules(
    agents, monkeypatch, given, expected
):
    monkeypatch.setattr(evaluator, "AgentPolicy", lambda *a, **k: None)
    monkeypatch.setattr(evaluator, "evaluate_policy", lambda policy, names, rules, *a: vars(rules))
    given = {"config": EvaluationConfig(episodes=2, seed=5), **given}
    result = m3dt.evaluate(agents["token"], "reach-v2", **given)
    assert result["episodes"] == expected
    assert result["seed"] == (given["config"] or EvaluationConfig()).seed


def test_an_actor_runs_one_episode_whatever_an_evaluation_plays(agents):
    actor = agents["token"].actor("reach-v2", config=EvaluationConfig(episodes=3, seed=5))
    assert len(actor.seeds) == 1
    assert actor.seeds == EpisodeGroup("reach-v2", (0,)).seeds(5)


def test_numbers_of_episodes_are_whole(agents):
    actor = agents["token"].actor("reach-v2", episodes=np.int64(2))
    actor.reset(first=np.int32(3))
    for first in ("a", 1.5):
        with pytest.raises(UserError, match=f"reset: first={first!r} must be a whole number"):
            actor.reset(first=first)
