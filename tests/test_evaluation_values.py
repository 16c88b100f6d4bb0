"""Values that are not finite, and results that were changed, make no score."""

import copy
import json
import math
import queue
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import SYNTHETIC_TASKS
from small_agent import outcome
from test_evaluation import LatePool

import m3dt
from m3dt.config import EvaluationConfig
from m3dt.evaluation import (
    AgentPolicy,
    RandomPolicy,
    film,
    summarize,
)
from m3dt.evaluation.evaluator import Journal, make_groups
from m3dt.evaluation.scheduler import RolloutScheduler
from m3dt.evaluation.sessions import EpisodeGroup, predict
from m3dt.runs.evaluations import Evaluation, evaluation_file, evaluations, read_evaluation
from m3dt.tasks.workers import Transition
from m3dt.utils.errors import RunError
from m3dt.utils.files import fingerprint


class BrokenPool(LatePool):
    """At step 3, episode 1 of each group has a reward or an observation that is not finite."""

    def __init__(self, reward=1.0, observed=0.0):
        super().__init__()
        self.reward, self.observed, self.steps = reward, observed, 0

    def reset(self, worker, attempt, task, seeds):
        self.answers.put((worker, Transition(attempt, np.zeros((2, 27)))))

    def step(self, worker, attempt, actions):
        self.steps += 1
        true, rewards, observations = np.ones(2, bool), np.ones(2), np.zeros((2, 27))
        if self.steps == 3:
            rewards[1], observations[1, 5] = self.reward, self.observed
        answer = Transition(attempt, observations, rewards, true, true, done=self.steps == 9)
        self.answers.put((worker, answer))

    def receive(self, timeout):
        with suppress(queue.Empty):
            return [self.answers.get(timeout=0.2)]
        return []


class Diverged(RandomPolicy):
    """Its third action in episode 1 is not finite."""

    def __init__(self, value):
        self.value, self.acted = value, 0

    def act(self, sessions):
        self.acted += 1
        actions = super().act(sessions)
        actions[0][1, 2] = self.value if self.acted == 3 else 0
        return actions


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["reward", "observation", "action"])
def test_no_score_is_made_of_values_that_are_not_finite(what, value):
    """They end an evaluation with task, episode and step."""
    broken = {"reward": {"reward": value}, "observation": {"observed": value}, "action": {}}
    pool, policy = BrokenPool(**broken[what]), RandomPolicy()
    if what == "action":
        policy = Diverged(value)
    (group,) = make_groups(["ant-dir-3"], episodes=2, size=2)
    step = 3 if what == "observation" else 2  # the third action leads to observation 3
    with pytest.raises(RunError, match=f"ant-dir-3, episode 1, step {step}: .*{what} is not"):
        list(RolloutScheduler(pool, policy, [group], seed=0).run())


@pytest.mark.parametrize(
    ("reward", "observed", "what"),
    [(-1e42, 0.0, "return-to-go"), (1.0, 1e39, "normalised observation")],
)
def test_inputs_that_overflow_end_an_episode(agent, reward, observed, what):
    """Numbers of the simulators that float32 cannot hold."""
    session = AgentPolicy(agent).begin(EpisodeGroup("push-v2", (4, 7)), 0)
    session.observe(np.zeros((2, 39)), None)
    predict([session])
    with np.errstate(over="ignore"):
        session.observe(np.array([[0.0] * 39, [observed] * 39]), np.array([0.0, reward]))
        with pytest.raises(RunError, match=f"push-v2, episode 7, step 1: the {what} is not finite"):
            predict([session])


def test_a_model_that_answers_nan_has_no_score(agent):
    """Before, cheetah-vel gave it 100."""
    broken = copy.deepcopy(agent)
    broken.model.predict_action.weight.data[:] = torch.nan
    with pytest.raises(RunError, match="reach-v2, episode 0, step 0: the action is not finite"):
        m3dt.evaluate(broken, ["reach-v2"], 1, EvaluationConfig(tile=1, workers=1))
    with pytest.raises(RunError, match="the action is not finite"):
        film_without_frames(AgentPolicy(broken))


def film_without_frames(policy):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m3dt.tasks.envs.TaskEnv.render", lambda self: np.zeros((2, 2, 3)))
        film(policy, "reach-v2")


@pytest.mark.parametrize("task", SYNTHETIC_TASKS + ("cheetah-vel-7",))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_return_that_is_not_finite_has_no_score(task, value):
    with pytest.raises(RunError, match=f"{task}: a return of {value} has no score"):
        summarize([outcome(task, 0, value, True, 200)])


CONDITIONS = {"tasks": {}, "episodes": 1, "seed": 0, "weights": "", "num_parameters": 0}


def test_episodes_and_results_that_are_not_finite_are_not_taken_from_files(tmp_path):
    path = tmp_path / "episodes.jsonl"
    rows = [[["reach-v2", 0, math.nan, True, 5, 1]], [["reach-v2", 1, 2, True, 5, 100]]]
    first, second = (json.dumps(["k", row, fingerprint(["k", row])]) for row in rows)
    path.write_text(f"{first}\n{second}")
    assert [e.number for (e,) in Journal(path, "k").episodes.values()] == [1]
    path.write_bytes(b"\xff\n" + second.encode() + b"\n" + b"[" * 10**5)
    assert [e.number for (e,) in Journal(path, "k").episodes.values()] == [1]
    result = evaluation_file(tmp_path, "router", "k")
    for score, taken in ((math.nan, False), (1.0, True)):
        one = Evaluation.now("router", "k", {**CONDITIONS, "score": score})
        one.write(tmp_path)
        assert (read_evaluation(result) == one) == taken
    for content in ("[" * 10**5, "[1]", "\x80", '{"key": "k", "result": {}}'):
        result.write_bytes(content.encode("latin-1"))
        assert read_evaluation(result) is None
        found, (note,) = evaluations(tmp_path)
        assert found == [] and f"{result}: left out" in note and "m3dt evaluate" in note


def test_stored_scores_and_episodes_that_were_changed_are_not_taken(tmp_path):
    """Not even a number within its range."""
    journal = Journal(tmp_path / "episodes.jsonl", "k")
    Evaluation.now("router", "k", {**CONDITIONS, "score": 1.0}).write(tmp_path)
    result = evaluation_file(tmp_path, "router", "k")
    result.write_text(result.read_text().replace("1.0", "2.0"))
    assert read_evaluation(result) is None
    episode = outcome("reach-v2", 0, 12.5, True, 5)
    journal.add(EpisodeGroup("reach-v2", (0,)), [episode])
    assert list(Journal(journal.path, "k").episodes.values()) == [[episode]]
    journal.path.write_text(journal.path.read_text().replace("12.5", "13.5"))
    assert Journal(journal.path, "k").episodes == {}
