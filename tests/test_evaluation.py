"""Scores, intervals, rollouts."""

import copy
import json
import math
import multiprocessing
import os
import queue
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SYNTHETIC_TASKS, write_dataset

import m3dt
from m3dt.config import EvaluationConfig, LoaderConfig, ModelConfig
from m3dt.data import DatasetStore, Segment, TaskContext
from m3dt.data.sampler import TaskSampler
from m3dt.evaluation import (
    AgentPolicy,
    Episode,
    EvaluationResult,
    IdlePolicy,
    RandomPolicy,
    TaskResult,
    evaluate_policy,
    film,
    summarize,
)
from m3dt.evaluation.agent import Agent
from m3dt.evaluation.evaluator import Journal, make_groups
from m3dt.evaluation.passes import PassRunner
from m3dt.evaluation.policies import pass_size
from m3dt.evaluation.scheduler import RolloutScheduler
from m3dt.evaluation.scores import shares_of_target
from m3dt.evaluation.sessions import AgentSession, EpisodeGroup, episode_seed, predict
from m3dt.models import PromptDT, add_mixtures, fast, make_model
from m3dt.runs.entries import Entry
from m3dt.runs.evaluations import Evaluation, evaluation_file, evaluations, read_evaluation
from m3dt.runs.registry import Registry
from m3dt.tasks import get_task, make_env
from m3dt.tasks.workers import GroupEnvironments, Transition
from m3dt.utils.console import make_console
from m3dt.utils.errors import RunError, UserError
from m3dt.utils.files import fingerprint
from m3dt.utils.processes import single_threaded

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context_length=4, prompt_length=3)
TASKS = ("reach-v2", "push-v2")
SETTINGS = {"grouping": {"method": "random"}, "moe": {"num_experts": 2}}


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    folder = write_dataset(tmp_path_factory.mktemp("data"), TASKS)
    torch.manual_seed(0)
    model = PromptDT(MODEL)
    add_mixtures(model, 2, routed=True)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    context = TaskContext.from_store(DatasetStore.open(folder, TASKS), LoaderConfig(), MODEL)
    entry = Entry("router", "main", SETTINGS, {}, "", 0, 0, {}, [])
    return Agent(model.eval(), entry, context, "runs/test")


def outcome(task, *numbers):
    return Episode.of(get_task(task), *numbers)


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


def test_seeds_are_keyed_by_task_and_episode():
    seeds = {episode_seed(s, t, e) for s in (0, 1) for t in TASKS for e in range(50)}
    assert len(seeds) == 200
    assert EpisodeGroup("reach-v2", (3, 4)).seeds(0)[1] == episode_seed(0, "reach-v2", 4)


def test_groups_hold_each_episode_once():
    groups = make_groups(TASKS, episodes=7, size=5)
    assert [g.task for g in groups] == ["reach-v2", "reach-v2", "push-v2", "push-v2"]
    assert [g.episodes for g in groups] == [(0, 1, 2, 3, 4), (5, 6)] * 2


def test_session_equals_the_whole_history(agent):
    """Window, prompt cache, returns-to-go and timesteps, against `predict_actions`."""
    policy = AgentPolicy(agent)
    session = policy.begin(EpisodeGroup("push-v2", (0, 1, 2)), 0)
    rng = np.random.default_rng(0)
    observations, rewards, actions = [], [], []
    context = agent.context
    index = context.index("push-v2")
    prompt = [tensor[index][torch.tensor([0, 1, 0])] for tensor in context.prompts]
    for t in range(7):
        observations.append(rng.normal(size=(3, 39)).astype(np.float32))
        session.observe(observations[-1], rewards[-1] if rewards else None)
        actions += policy.act([session])
        rewards.append(rng.uniform(0, 10, 3))
        steps = range(max(0, t - 3), t + 1)
        mean, std = context.state_mean[index].numpy(), context.state_std[index].numpy()
        states = np.stack([(observations[s] - mean) / std for s in steps], axis=1)
        history = np.zeros((3, len(steps), 8), np.float32)
        for i, s in enumerate(steps):
            history[:, i, :4] = actions[s] if s < t else 0
        spent = [np.sum(rewards[:s], axis=0) if s else np.zeros(3) for s in steps]
        returns = np.stack([(4500 - x) / 1000 for x in spent], axis=1)[..., None]
        expected = agent.predict_actions(
            torch.from_numpy(states),
            torch.from_numpy(history),
            torch.from_numpy(returns.astype(np.float32)),
            torch.tensor([list(steps)] * 3),
            torch.ones(3, len(steps)),
            *prompt,
        )[:, -1, :4]
        np.testing.assert_allclose(actions[-1], expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("task", SYNTHETIC_TASKS)
def test_acting_sees_what_training_sees(synthetic, task, conditioned):
    """A recorded trajectory, replayed step by step, equals the sampler's segments to the bit."""
    store = DatasetStore.open(synthetic, [task])
    # Fewer timesteps than the trajectory has.
    config = replace(MODEL, max_timesteps=20, condition_on_return=conditioned)
    sampler = TaskSampler(store.tasks[0], LoaderConfig(), config)
    context = TaskContext.from_store(store, LoaderConfig(), config)
    runner = PassRunner(PromptDT(config).eval(), batch_size=1)
    data, end = store.tasks[0], store.tasks[0].episode_ends[0]
    total = data.rewards[:end].sum(dtype=np.float64)
    session = AgentSession(
        runner, context.task(task, config), EpisodeGroup(task, (0,)), total, "real_dims"
    )
    for t in range(end):
        session.observe(data.observations[t][None], data.rewards[t - 1 : t] if t else None)
        assert not session.window().actions[:, -1].any()  # not chosen yet
        session.choose(np.pad(data.actions[t], (0, 8 - data.spec.action_dim))[None])
        count = min(t + 1, config.context_length)
        begin = np.array([t + 1 - count])
        expected = sampler.segments(np.array([0]), begin, count, sampler.inputs)
        seen = session.window()
        assert seen.attention_mask[0].tolist() == [0.0] * (4 - count) + [1.0] * count
        for name, own, other in zip(Segment._fields, seen, expected, strict=True):
            assert own.dtype == other.dtype, name
            np.testing.assert_array_equal(own[:, 4 - count :], other, err_msg=name)
        assert seen.returns_to_go.any() == conditioned
    assert context.prompts.returns_to_go.any() == conditioned


@pytest.mark.parametrize("conditioned", [True, False])
def test_behaviour_cloning_ignores_the_target_return(synthetic, conditioned):
    task, config = SYNTHETIC_TASKS[0], replace(MODEL, condition_on_return=conditioned)
    context = TaskContext.from_store(DatasetStore.open(synthetic, [task]), LoaderConfig(), config)
    runner = PassRunner(PromptDT(config).eval(), batch_size=1)
    actions = []
    for target in (0.0, 4500.0):
        session = AgentSession(
            runner, context.task(task, config), EpisodeGroup(task, (0,)), target, "real_dims"
        )
        session.observe(np.ones((1, 39), np.float32), None)
        actions.append(runner.act(session.window(), session.prompt))
    assert np.array_equal(*actions) != conditioned


def test_a_row_does_not_depend_on_its_company(agent):
    """Among copies of itself or among others, a row has the same bits, on one thread."""
    policy = AgentPolicy(agent, EvaluationConfig(batch_size=7, tile=1))
    rng = np.random.default_rng(1)
    groups = [EpisodeGroup(task, (e,)) for e, task in enumerate(TASKS * 3)]
    together, alone = ([policy.begin(group, 0) for group in groups] for _ in range(2))
    for t in range(6):
        seen = rng.normal(size=(len(groups), 1, 39)).astype(np.float32)
        for session, twin, observation in zip(together, alone, seen, strict=True):
            session.observe(observation, np.ones(1) if t else None)
            twin.observe(observation, np.ones(1) if t else None)
        order = rng.permutation(len(groups))
        with single_threaded():
            actions = policy.act([together[i] for i in order])
            for i, chosen in zip(order, actions, strict=True):
                (expected,) = policy.act([alone[i]])
                np.testing.assert_array_equal(chosen, expected)
    assert len({session.actions.tobytes() for session in together}) == len(groups)


def test_every_pass_has_one_shape(agent, monkeypatch):
    """Groups of any size act in passes of `batch_size` rows, without a change of their bits."""
    shapes = []

    def watched(model, segment, prompt, compute):
        shapes.append((len(segment.states), len(prompt.valid)))
        return fast_act(model, segment, prompt, compute)

    fast_act = fast.act
    monkeypatch.setattr(fast, "act", watched)
    policy = AgentPolicy(agent, EvaluationConfig(batch_size=4, tile=4))
    groups = [EpisodeGroup("push-v2", e) for e in ((0, 1, 2, 3, 4, 5), (0,), (1, 2, 3, 4))]
    observations = np.random.default_rng(0).normal(size=(6, 39)).astype(np.float32)
    actions = []
    with single_threaded():
        for group in groups:
            session = policy.begin(group, 0)
            session.prompt = policy.begin(groups[0], 0).prompt.take(torch.tensor(group.episodes))
            session.observe(observations[list(group.episodes)], None)
            actions += policy.act([session])
    assert shapes == [(4, 4)] * 4  # two passes for the first group
    np.testing.assert_array_equal(actions[0][:1], actions[1])
    np.testing.assert_array_equal(actions[0][1:5], actions[2])


def test_precision_of_acting(agent):
    """bfloat16 has 8 bits of precision: actions differ a little from those of float32."""
    seen = np.random.default_rng(0).normal(size=(2, 39)).astype(np.float32)
    actions = []
    for precision in ("32-true", "bf16-mixed"):
        policy = AgentPolicy(agent, EvaluationConfig(precision=precision))
        session = policy.begin(EpisodeGroup("push-v2", (0, 1)), 0)
        assert session.prompt.key_values[0][0].dtype == (
            torch.float32 if precision == "32-true" else torch.bfloat16
        )
        session.observe(seen, None)
        actions += policy.act([session])
    difference = np.abs(actions[0] - actions[1]).max()
    assert actions[1].dtype == np.float32 and 1e-5 < difference < 0.05


@pytest.mark.parametrize(
    ("settings", "device", "rows"),
    [
        ({}, "cpu", 10),
        ({"tile": 20}, "cpu", 20),
        ({}, "cuda", 128),
        ({"episodes": 1}, "cuda", 53),  # a third of 160 episodes
        ({"episodes": 1, "tile": 64}, "cuda", 64),
        ({"batch_size": 16}, "cpu", 16),
        ({"batch_size": 16}, "cuda", 16),
    ],
)
def test_rows_of_a_pass(settings, device, rows):
    assert pass_size(EvaluationConfig(**settings), 160, device) == rows


@pytest.mark.long
def test_a_thread_begins_with_one_thread_of_its_own():
    """In a process with two threads per product, the pool's first products use one."""
    script = """
import torch
from m3dt.utils.processes import single_threaded, single_threaded_pool
left, right = torch.randn(7, 39), torch.randn(39, 16)
assert torch.get_num_threads() == 2
with single_threaded():
    expected = left @ right
for _ in range(20):
    with single_threaded_pool(2) as threads:
        assert torch.equal(threads.submit(torch.mm, left, right).result(), expected)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_target_return(agent):
    assert AgentPolicy(agent).target_return("reach-v2") == 4500
    best = AgentPolicy(agent, EvaluationConfig(target="data")).target_return("reach-v2")
    assert best == pytest.approx(float(agent.context.best_return[0]))


@pytest.mark.parametrize(
    ("task", "scale", "expected"),
    [
        ("reach-v2", 0.5, 2250),
        ("walker-walk", 2.0, 2000),
        ("ant-dir-3", 0.25, 125),
        ("cheetah-vel-3", 0.25, -75),  # from -100, which scores 0, to the paper's 0
        ("cheetah-vel-3", 1.0, 0),
    ],
)
def test_a_share_of_the_target_return(agent, task, scale, expected):
    rules = EvaluationConfig(target_scale=scale)
    agent = replace(agent, context=replace(agent.context, tasks=(task,)))
    assert AgentPolicy(agent, rules).target_return(task) == expected
    spec = get_task(task)
    assert spec.share_of_target(expected) == pytest.approx(scale)
    assert spec.normalized_score(spec.lowest_return, False) == 0


def test_the_share_is_of_the_target_in_use(agent):
    """With `target=data`, of the best return; a share of 1 changes no bit of it."""
    best = float(agent.context.best_return[0])
    for scale in (1.0, 0.3):
        rules = EvaluationConfig(target="data", target_scale=scale)
        found = AgentPolicy(agent, rules).target_return("reach-v2")
        assert found == (best if scale == 1 else pytest.approx(0.3 * best))


@pytest.mark.long
@pytest.mark.parametrize(
    ("which", "tile", "batch_size"), [("random", 2, 2), ("agent", 2, 2), ("agent", 1, 3)]
)
def test_workers_and_batches_change_no_score(agent, which, tile, batch_size):
    """Returns are bit-equal for 1 or 2 workers, one task or two, and any sharing of passes."""
    config = EvaluationConfig(episodes=2, tile=tile, batch_size=batch_size, workers=1)
    policy = RandomPolicy() if which == "random" else AgentPolicy(agent, config)
    console = make_console()
    one = evaluate_policy(policy, ["reach-v2"], config, console)["tasks"]["reach-v2"]
    two = evaluate_policy(policy, TASKS[::-1], replace(config, workers=2), console)
    assert one == two["tasks"]["reach-v2"]
    assert list(two["tasks"]) == list(TASKS[::-1])
    assert one["env_steps"] == 1000


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


def test_an_episode_that_ends_early_waits_for_the_others():
    """No reward, success or step of an episode is counted after its end."""

    class Env:
        def __init__(self, length):
            self.length, self.steps = length, 0

        def reset(self, seed):
            return np.full(2, seed, np.float32), {}

        def step(self, action):
            self.steps += 1
            assert self.steps <= self.length, "stepped after its end"
            fell = self.steps == self.length
            return np.full(2, self.steps, np.float32), 1.0, fell, False, {"success": fell}

    group = GroupEnvironments(5, [Env(2), Env(4), Env(1)])
    assert group.reset([7, 8, 9]).observations[:, 0].tolist() == [7, 8, 9]
    steps = [group.step(np.zeros((3, 8))) for _ in range(4)]
    assert [s.done for s in steps] == [False, False, False, True]
    assert np.sum([s.rewards for s in steps], axis=0).tolist() == [2, 4, 1]
    assert np.sum([s.played for s in steps], axis=0).tolist() == [2, 4, 1]
    assert [s.successes.tolist() for s in steps[:2]] == [[0, 0, 1], [1, 0, 0]]
    assert steps[3].observations[:, 0].tolist() == [2, 4, 1]


class LatePool:
    """One worker of one-step episodes; the first group observes after all others."""

    def __init__(self):
        self.connections, self.answers, self.late = [None], queue.SimpleQueue(), []

    def reset(self, worker, attempt, task, seeds):
        answer = (worker, Transition(attempt, np.zeros((1, 27))))
        self.answers.put(answer) if attempt else self.late.append(answer)

    def step(self, worker, attempt, actions):
        true = np.ones(1, bool)
        end = Transition(attempt, np.zeros((1, 27)), np.ones(1), true, true, done=True)
        self.answers.put((worker, end))

    def receive(self, timeout):
        count = max(self.answers.qsize(), 1)
        found = [self.answers.get(timeout=30) for _ in range(count)]
        while self.late:
            self.answers.put(self.late.pop())
        return found


def test_groups_wait_for_a_full_batch():
    """Of four groups that have observed, three fill a batch; the fourth waits for the fifth."""
    batches = []

    class Watched(RandomPolicy):
        batch_size = 3

        def act(self, sessions):
            batches.append(len(sessions))
            return super().act(sessions)

    groups = make_groups(["ant-dir-3"], episodes=5, size=1)
    played = dict(RolloutScheduler(LatePool(), Watched(), groups, seed=0).run())
    assert batches == [3, 2]
    assert set(played) == set(groups)
    assert all(played[g] == [outcome("ant-dir-3", *g.episodes, 1.0, True, 1)] for g in groups)


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


CONDITIONS = {"tasks": {"reach-v2": {}}, "episodes": 1, "seed": 0}


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


def test_a_daemonic_process_is_told_the_remedy(monkeypatch):
    """A worker of `multiprocessing.Pool` may start no processes."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(UserError, match="multiprocessing.Pool cannot start.*ProcessPoolExecutor"):
        evaluate_policy(RandomPolicy(), ["ant-dir-3"], EvaluationConfig(), make_console())


def test_task_data_of_another_precision_is_read_as_float32(agent, tmp_path):
    """As the weights are: an agent could not act with half a precision in its prompts."""
    registry, model = Registry(tmp_path), PromptDT(MODEL)
    halves = {n: t.half() if t.is_floating_point() else t for n, t in _tensors(agent).items()}
    settings = {"model": vars(MODEL)}
    described = Entry("backbone", "main", settings, {}, "", 0, 0, {}, list(TASKS))
    saved = registry.save(described, model.state_dict(), tasks=halves)
    assert registry.tensors(saved, "tasks")["state_mean"].dtype == torch.float16
    loaded = _tensors(m3dt.load(tmp_path))
    for name, tensor in _tensors(agent).items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-3, atol=1e-3, equal_nan=True)


def _tensors(agent):
    return agent.context.tensors()


def test_acting_does_not_depend_on_the_default_type(agent):
    """Models are float32, and so are their actions, whatever type torch makes by default."""

    def acted():
        torch.manual_seed(0)
        model = make_model(MODEL)
        add_mixtures(model, 2, routed=True)
        for mixture in model.mixtures:
            mixture.experts.reset([1, 2])
        session = AgentPolicy(replace(agent, model=model.eval())).begin(group, 0)
        session.observe(np.ones((2, 39)), None)
        return {p.dtype for p in model.parameters()}, predict([session])[0]

    group = EpisodeGroup("push-v2", (0, 1))
    _, expected = acted()
    torch.set_default_dtype(torch.float64)
    try:
        types, actions = acted()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert types == {torch.float32}
    np.testing.assert_array_equal(actions, expected)


@pytest.mark.parametrize(
    ("first", "environment", "warned"),
    [
        ("torch.ones(4, 4) @ torch.ones(4, 4)", {}, True),
        ("pass", {}, False),
        ("torch.ones(4, 4) @ torch.ones(4, 4)", {"MKL_CBWR": "AUTO,STRICT"}, False),
        ("torch.ones(4, 4) @ torch.ones(4, 4)", {"MKL_CBWR": "COMPATIBLE"}, False),
    ],
)
def test_products_before_the_import_are_noticed(first, environment, warned):
    """MKL reads MKL_CBWR at its first product; a score of another mode is not given silently."""
    script = f"import torch; {first}; import m3dt; m3dt.load('/nowhere')"
    inherited = {k: v for k, v in os.environ.items() if k != "MKL_CBWR"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True)
    assert "holds no trained model" in done.stderr
    assert ("torch computed before m3dt was imported" in done.stderr) == (
        warned and "mkl" in torch.__config__.show().lower()
    )


def test_a_raising_policy_is_reported():
    class Broken(RandomPolicy):
        def begin(self, group, seed):
            session = super().begin(group, seed)
            session.rngs = None
            return session

    config = EvaluationConfig(episodes=1, tile=1, workers=1)
    with pytest.raises(TypeError):
        evaluate_policy(Broken(), ["reach-v2"], config, make_console())
