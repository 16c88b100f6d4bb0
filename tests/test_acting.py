"""Acting by hand, against evaluation."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quick_run import TASKS
from random_agents import METHODS, MODEL, trajectories

import m3dt
from m3dt.config import EvaluationConfig, LoaderConfig
from m3dt.data.prompted_task import PromptedTask
from m3dt.evaluation import AgentPolicy, evaluate_policy
from m3dt.evaluation.evaluator import Journal
from m3dt.evaluation.sessions import EpisodeGroup
from m3dt.tasks import get_task, make_env
from m3dt.tasks.workers import GroupEnvironments, WorkerPool
from m3dt.utils.console import make_console
from m3dt.utils.errors import UserError

README = Path(__file__).resolve().parents[1] / "README.md"
ONE_PASS = EvaluationConfig(episodes=2, tile=2, batch_size=2, workers=1)


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(1) as pool:
        yield pool


def play(actor, env):
    """Play an episode as a user would, and return the sum of its rewards."""
    observation, _ = env.reset(seed=actor.seeds[0])
    total, reward, over = 0.0, None, False
    while not over:
        observation, reward, ended, truncated, _ = env.step(actor.act(observation, reward))
        total, over = total + reward, ended or truncated
    return total


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_a_loop_by_hand_earns_what_evaluation_records(agents, pool, one_thread, tmp_path, method):
    """To the bit: both episodes of an evaluation whose passes have one row."""
    rules = replace(ONE_PASS, tile=1, batch_size=1)
    policy, journal = AgentPolicy(agents[method], rules), Journal(tmp_path / "episodes", "k")
    evaluate_policy(policy, ["ant-dir-3"], rules, make_console(), pool, journal)
    actor, env = agents[method].actor("ant-dir-3"), make_env("ant-dir-3")
    for number in (0, 1):
        (episode,) = journal.episodes[EpisodeGroup("ant-dir-3", (number,))]
        actor.reset(number)
        assert play(actor, env) == episode.episode_return
    env.close()


@pytest.mark.long
def test_episodes_in_step_earn_what_evaluation_records(agents, pool, one_thread, tmp_path):
    journal = Journal(tmp_path / "episodes", "k")
    policy = AgentPolicy(agents["token"], replace(ONE_PASS, seed=3))
    evaluate_policy(policy, ["ant-dir-3"], policy.rules, make_console(), pool, journal)
    actor = agents["token"].actor("ant-dir-3", episodes=2, seed=3)
    envs = [make_env("ant-dir-3") for _ in range(2)]
    seen = np.stack([e.reset(seed=s)[0] for e, s in zip(envs, actor.seeds, strict=True)])
    rewards, totals, done = None, np.zeros(2), np.zeros(2, bool)
    while not done.all():
        actions, rewards = actor.act(seen, rewards, done), np.zeros(2)
        for i in np.flatnonzero(~done):
            seen[i], rewards[i], ended, truncated, _ = envs[i].step(actions[i])
            done[i] = ended or truncated
        totals += rewards
    (found,) = journal.episodes.values()
    assert [episode.episode_return for episode in found] == totals.tolist()


def test_the_size_of_a_pass_moves_only_rounding(agents):
    for method, agent in agents.items():
        actors = [
            agent.actor("reach-v2", config=rules)
            for rules in (EvaluationConfig(), EvaluationConfig(batch_size=10))
        ]
        rng, reward = np.random.default_rng(0), None
        for _ in range(7):
            observation = rng.normal(size=39)
            first, second = (actor.act(observation, reward) for actor in actors)
            assert first.shape == (4,) and first.dtype == np.float32 and np.abs(first).max() <= 1
            np.testing.assert_allclose(first, second, rtol=0, atol=1e-5, err_msg=method)
            reward = rng.normal()


class Ending:
    """An environment whose episode ends after some steps."""

    def __init__(self, length):
        self.length = length

    def reset(self, seed):
        self.rng, self.steps = np.random.default_rng(seed), 0
        return self.rng.normal(size=27).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        seen = self.rng.normal(size=27).astype(np.float32)
        return seen, float(action.sum()), self.steps == self.length, False, {"success": False}


def test_episodes_that_have_ended_wait_for_the_others(agents, one_thread):
    """The others act as in evaluation, whatever is given for those that have ended."""
    agent, lengths = agents["token"], (3, 6, 1)
    group = EpisodeGroup("ant-dir-3", (0, 1, 2))
    policy = AgentPolicy(agent, replace(ONE_PASS, tile=3, batch_size=3))
    session = policy.begin(group, 0)
    worker = GroupEnvironments(0, [Ending(length) for length in lengths])
    actor = agent.actor("ant-dir-3", episodes=3)
    assert actor.seeds == group.seeds(0)
    transition, done = worker.reset(group.seeds(0)), None
    for t in range(6):
        session.observe(transition.observations, transition.rewards)
        (expected,) = policy.act([session])
        ended = np.array(lengths) <= t
        seen, rewards = transition.observations.copy(), transition.rewards
        if t:
            done, rewards = np.array(lengths) == t, rewards.copy()  # each end is named once
            seen[ended], rewards[ended] = np.nan, np.inf
        actions = actor.act(seen, rewards, done)
        np.testing.assert_array_equal(actions[~ended], expected[~ended])
        assert not actions[ended].any()
        transition = worker.step(expected)
    with pytest.raises(UserError, match="all episodes have ended"):
        actor.act(seen, rewards, np.ones(3, bool))
    actor.reset()
    assert actor.act(np.ones((3, 27))).any(axis=1).all()


@pytest.mark.long
def test_evaluation_plays_a_task_that_is_described_by_prompts(agents, pool, one_thread, tmp_path):
    """By its name, with the catalogue's target and scale; by hand it earns the same."""
    spec = get_task("cheetah-vel-7")
    shown = trajectories(np.random.default_rng(1), (40, 25), (spec.state_dim, spec.action_dim))
    task = PromptedTask.from_trajectories(shown, MODEL, LoaderConfig(), spec)
    agent, rules = agents["prompt"].with_task(task), replace(ONE_PASS, tile=1, batch_size=1)
    policy, journal = AgentPolicy(agent, rules), Journal(tmp_path / "episodes", "k")
    assert policy.target_return(spec.name) == spec.target_return
    evaluate_policy(policy, [spec.name], rules, make_console(), pool, journal)
    env, (first,) = make_env(spec.name), journal.episodes[EpisodeGroup(spec.name, (0,))]
    assert play(agent.actor(spec.name), env) == first.episode_return
    given = {"target": spec.target_return, "return_scale": spec.return_scale}
    nameless = agents["prompt"].actor(prompt=shown, **given)
    observation, _ = env.reset(seed=0)
    named = agent.actor(spec.name)
    np.testing.assert_array_equal(nameless.act(observation), named.act(observation))
    env.close()


def test_a_task_is_asked_for_the_callers_target(agents):
    """`target` replaces what the settings say, which scale the task's own."""
    observation, asked = np.ones(39), {}
    for target, scale in ((None, 1.0), (None, 0.5), (2250.0, 1.0), (2250.0, 0.1)):
        config = EvaluationConfig(target_scale=scale)
        actor = agents["token"].actor("reach-v2", target=target, config=config)
        asked[target, scale] = actor.act(observation).tolist()
    assert asked[None, 0.5] == asked[2250.0, 1.0] == asked[2250.0, 0.1] != asked[None, 1.0]


def test_new_episodes_remember_nothing(agents):
    """An episode's number gives its seed and its prompt."""
    actor = agents["token"].actor("reach-v2")
    first, seeds = actor.act(np.ones(39)), actor.seeds
    assert seeds == EpisodeGroup("reach-v2", (0,)).seeds(0)
    actor.act(np.ones(39), 1.0)
    actor.reset()
    np.testing.assert_array_equal(actor.act(np.ones(39)), first)
    actor.reset(first=3)
    assert actor.seeds == EpisodeGroup("reach-v2", (3,)).seeds(0) != seeds
    assert np.abs(actor.act(np.ones(39)) - first).max() > 1e-4  # by the other prompt


def test_a_behaviour_clone_needs_no_rewards(agents):
    actions = []
    for reward in (None, 5.0):
        actor = agents["bc"].actor("reach-v2")
        actor.act(np.ones(39))
        actions.append(actor.act(np.zeros(39), reward))
    np.testing.assert_array_equal(*actions)


def test_the_example_in_the_readme_runs(finished, tmp_path, monkeypatch, one_thread):
    """Its ten lines earn what evaluation records with one row per pass."""
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (code,) = [example for example in examples if "agent.actor(" in example]
    assert len([line for line in code.splitlines() if line]) == 10
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/quickstart").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    rules = replace(ONE_PASS, tile=1, batch_size=1)
    result = m3dt.evaluate(names["agent"], TASKS[0], episodes=1, config=rules)
    assert result["tasks"][TASKS[0]]["return_mean"] == names["total"]
