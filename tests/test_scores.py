"""From episodes to scores and intervals."""

import numpy as np
import pytest
from small_agent import outcome

import m3dt
from m3dt.config import EvaluationConfig
from m3dt.evaluation import (
    EvaluationResult,
    IdlePolicy,
    TaskResult,
    evaluate_policy,
    summarize,
)
from m3dt.evaluation.scores import shares_of_target
from m3dt.evaluation.sessions import EpisodeGroup
from m3dt.tasks import get_task, make_env
from m3dt.utils.console import make_console
from m3dt.utils.errors import UserError


def test_summary_weighs_tasks_equally():
    episodes = [outcome("reach-v2", i, 100.0 * i, i == 0, 500) for i in range(4)]
    episodes += [outcome("cheetah-vel-0", 0, -30.0, False, 200)]
    summary = summarize(episodes)
    assert summary["tasks"]["reach-v2"]["score"] == 25
    assert summary["tasks"]["reach-v2"]["return_mean"] == 150
    assert summary["tasks"]["reach-v2"]["success_rate"] == 0.25
    assert summary["tasks"]["reach-v2"]["env_steps"] == 2000
    assert summary["score"] == pytest.approx((25 + 100) / 2)
    assert summary["domains"] == {"metaworld": 25, "cheetah-vel": pytest.approx(100)}
    # Mean returns of 150 and -30, as shares of 4500 and of the way from -100 to 0.
    assert shares_of_target(summary["tasks"]) == {
        "metaworld": pytest.approx(150 / 4500),
        "cheetah-vel": 0.7,
    }


def test_one_episode_has_no_interval():
    alone = [
        outcome("walker-walk", 0, 400.0, False, 500),
        outcome("reach-v2", 0, 1.0, True, 500),
    ]
    for episode in alone:
        summary = summarize([episode])
        assert summary["ci95"] is None and summary["tasks"][episode.task]["ci95"] is None
    together = summarize(alone)
    assert together["ci95"] == [40, 100]
    assert [task["ci95"] for task in together["tasks"].values()] == [None, None]


def test_summary_equals_numpy():
    """Means and sums accumulated by torchmetrics, against NumPy, for 1 to 40 episodes a task."""
    rng = np.random.default_rng(0)
    episodes = [
        outcome(task, i, float(rng.normal(300, 200)), bool(rng.integers(2)), int(rng.integers(500)))
        for task, count in {"reach-v2": 1, "walker-walk": 10, "ant-dir-3": 40}.items()
        for i in range(count)
    ]
    summary = summarize(episodes)
    for task, result in summary["tasks"].items():
        group = [e for e in episodes if e.task == task]
        returns = np.array([e.episode_return for e in group])
        expected = {
            "score": np.mean([e.score for e in group]),
            "return_mean": returns.mean(),
            "return_std": returns.std(),
            "success_rate": np.mean([e.success for e in group]),
            "env_steps": np.sum([e.env_steps for e in group]),
        }
        for name, value in expected.items():
            assert result[name] == pytest.approx(value, rel=1e-9, abs=1e-9), (task, name)
        assert result["episodes"] == len(group) and type(result["env_steps"]) is int
    scores = [result["score"] for result in summary["tasks"].values()]
    assert summary["score"] == pytest.approx(np.mean(scores), rel=1e-9)


def test_doing_nothing_is_zero_actions():
    """Played by hand in the same simulators, from the same initial states."""
    tasks, rules = ["ant-dir-3", "cheetah-vel-7"], EvaluationConfig(episodes=2, workers=1)
    found = evaluate_policy(IdlePolicy(), tasks, rules, make_console())["tasks"]
    for task in tasks:
        env, total = make_env(task), 0.0
        for seed in EpisodeGroup(task, (0, 1)).seeds(rules.seed):
            env.reset(seed=seed)
            over = False
            while not over:
                _, reward, terminated, truncated, _ = env.step(np.zeros(get_task(task).action_dim))
                total, over = total + reward, terminated or truncated
        env.close()
        assert found[task]["return_mean"] == pytest.approx(total / 2, rel=1e-5)
    assert found["ant-dir-3"]["score"] == pytest.approx(40, abs=5)


def test_evaluate_gives_the_documented_dictionary(agent):
    result = m3dt.evaluate(
        agent, tasks=["reach-v2"], episodes=1, config=EvaluationConfig(tile=1, workers=1)
    )
    assert (result["run"], result["method"]) == ("runs/test", "M3DT-Random")
    assert result["num_parameters"] == agent.model.num_parameters()
    assert set(result) == EvaluationResult.__required_keys__
    assert set(result["tasks"]["reach-v2"]) == TaskResult.__required_keys__
    assert set(result) == {
        "run", "method", "num_parameters", "score", "ci95", "domains", "tasks",
        "episodes", "env_steps_per_second", "flops_per_action", "ms_per_action", "seed", "versions",
    }  # fmt: skip
    assert set(result["tasks"]["reach-v2"]) == {
        "score", "ci95", "return_mean", "return_std", "success_rate", "episodes", "env_steps",
    }  # fmt: skip
    with pytest.raises(UserError, match="not trained on"):
        m3dt.evaluate(agent, tasks=["sweep-v2"])
