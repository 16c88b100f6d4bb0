"""Rollouts: what an agent sees, its passes, and how episodes are scheduled."""

import multiprocessing
import os
import queue
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SYNTHETIC_TASKS
from small_agent import MODEL, TASKS, outcome

import m3dt
from m3dt.config import EvaluationConfig, LoaderConfig
from m3dt.data import DatasetStore, Segment, TaskContext
from m3dt.data.sampler import TaskSampler
from m3dt.evaluation import (
    AgentPolicy,
    RandomPolicy,
    evaluate_policy,
)
from m3dt.evaluation.evaluator import make_groups
from m3dt.evaluation.passes import PassRunner
from m3dt.evaluation.policies import pass_size
from m3dt.evaluation.scheduler import RolloutScheduler
from m3dt.evaluation.sessions import AgentSession, EpisodeGroup, episode_seed, predict
from m3dt.models import PromptDT, add_mixtures, fast, make_model
from m3dt.runs.entries import Entry
from m3dt.runs.registry import Registry
from m3dt.tasks import get_task
from m3dt.tasks.workers import GroupEnvironments, Transition
from m3dt.utils.console import make_console
from m3dt.utils.errors import UserError
from m3dt.utils.processes import single_threaded


def test_seeds_are_keyed_by_task_and_episode():
    seeds = {episode_seed(s, t, e) for s in (0, 1) for t in TASKS for e in range(50)}
    assert len(seeds) == 200
    assert EpisodeGroup("reach-v2", (3, 4)).seeds(0)[1] == episode_seed(0, "reach-v2", 4)


def test_groups_hold_each_episode_once():
    groups = make_groups(TASKS, episodes=7, size=5)
    assert [g.task for g in groups] == ["reach-v2", "reach-v2", "push-v2", "push-v2"]
    assert [g.episodes for g in groups] == [(0, 1, 2, 3, 4), (5, 6)] * 2


def test_session_equals_the_whole_history(agent):
    """Window, prompt cache, returns-to-go and timesteps, against `predict`."""
    policy = AgentPolicy(agent)
    session = policy.begin(EpisodeGroup("push-v2", (0, 1, 2)), 0)
    rng = np.random.default_rng(0)
    observations, rewards, actions = [], [], []
    context = agent.context
    index = context.index("push-v2")
    prompt = Segment(*(tensor[index][torch.tensor([0, 1, 0])] for tensor in context.prompts))
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
        segment = Segment(
            torch.from_numpy(states),
            torch.from_numpy(history),
            torch.from_numpy(returns.astype(np.float32)),
            torch.tensor([list(steps)] * 3),
            torch.ones(3, len(steps)),
        )
        expected = agent.predict(segment, prompt)[:, -1, :4]
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
