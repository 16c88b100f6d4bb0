"""Acting by hand, against evaluation and against inputs that are put together here."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SYNTHETIC_TASKS
from quick_run import TASKS
from test_oracle import MODEL, perturbed

import m3dt
from m3dt.config import EvaluationConfig, LoaderConfig, MoEConfig
from m3dt.data import DatasetStore, Segment, TaskContext
from m3dt.data.prompted_task import PromptedTask
from m3dt.evaluation import AgentPolicy, evaluate_policy, evaluator
from m3dt.evaluation.evaluator import Journal
from m3dt.evaluation.sessions import EpisodeGroup
from m3dt.models import PromptDT, add_mixtures, make_model
from m3dt.models.routing import GivenGates, PromptRouter, dense_gates, top_gates, with_routers
from m3dt.models.variants.task_masks import TaskMasks
from m3dt.runs.entries import Entry
from m3dt.tasks import Trajectory, get_task, make_env
from m3dt.tasks.workers import GroupEnvironments, WorkerPool
from m3dt.utils.console import make_console
from m3dt.utils.errors import RunError, UserError

README = Path(__file__).resolve().parents[1] / "README.md"
METHODS = ("backbone", "expert", "token", "prompt", "mtdt", "harmodt", "bc", "official")
ONE_PASS = EvaluationConfig(episodes=2, tile=2, batch_size=2, workers=1)


def make_agent(synthetic, method):
    """Return an agent of a method with random weights, which knows the three synthetic tasks."""
    torch.manual_seed(0)
    tasks, config = list(SYNTHETIC_TASKS), MODEL
    if method == "mtdt":
        config = replace(MODEL, task_embedding=5)
    if method == "bc":
        config = replace(MODEL, condition_on_return=False)
    model = make_model(config, len(tasks))
    if method in ("expert", "token", "prompt"):
        add_mixtures(model, 1 if method == "expert" else 2, routed=method == "token")
    if method == "prompt":
        model.prompt_router = PromptRouter(MODEL, 2, 8)
    perturbed(model).eval()
    context = TaskContext.from_store(DatasetStore.open(synthetic, tasks), LoaderConfig(), config)
    kind, name = "baseline", method
    if method in ("token", "prompt"):
        kind, name = "router", "main"
    moe = vars(MoEConfig(2, router="prompt" if method == "prompt" else "token"))
    entry = Entry(kind, name, {"moe": moe}, {}, "", 0, 0, {}, tasks)
    masks = TaskMasks.draw(model, len(tasks), 0.5, 0) if method == "harmodt" else None
    history = "all_dims" if method == "official" else "real_dims"
    return m3dt.Agent(model, entry, context, "", masks, history)


@pytest.fixture(scope="module")
def agents(synthetic):
    return {method: make_agent(synthetic, method) for method in METHODS}


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


def trajectories(rng, lengths=(30, 2), widths=(11, 3)):
    """Trajectories of a task that is in no catalogue."""
    return [
        Trajectory(
            3 + rng.normal(size=(T, widths[0])),
            rng.uniform(-1, 1, (T, widths[1])),
            rng.uniform(0, 2, T),
        )
        for T in lengths
    ]


PROMPTS = trajectories(np.random.default_rng(0), (5, 5))


def padded(array, width):
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))


def prompt_rows(trajectory, mean, std, scale):
    """Put the three steps before the final one together, with padding before them."""
    steps = range(max(0, len(trajectory.rewards) - 1 - 3), len(trajectory.rewards))[:3]
    missing = 3 - len(steps)
    states = padded((trajectory.observations[steps] - mean) / std, 39)
    returns = [trajectory.rewards[step:].sum() / scale for step in steps]
    return (
        np.concatenate([np.zeros((missing, 39)), states]),
        np.concatenate([np.full((missing, 8), -10.0), padded(trajectory.actions[steps], 8)]),
        np.array([0.0] * missing + returns)[:, None],
        np.array([0] * missing + list(steps)),
        np.array([0.0] * missing + [1.0] * len(steps)),
    )


@pytest.mark.parametrize("method", ["backbone", "token", "prompt", "bc"])
def test_a_prompt_alone_tells_the_task(agents, method):
    """Against the plain model, on statistics, prompts and returns that are computed here."""
    agent, rng = agents[method], np.random.default_rng(0)
    prompts = trajectories(rng)
    states = np.concatenate([p.observations for p in prompts])
    mean, std = states.mean(axis=0), np.maximum(states.std(axis=0), 0.01)
    returns = [p.rewards.sum() for p in prompts]
    target, scale = max(returns), max(returns) / 5
    rows = (prompt_rows(p, mean, std, scale) for p in (*prompts, prompts[0]))
    prompt = segment_of([np.stack(field) for field in zip(*rows, strict=True)])
    if method == "bc":
        prompt = prompt._replace(returns_to_go=prompt.returns_to_go * 0)
    model = agent.model
    if method == "prompt":
        model = with_gates(model, [features(p, mean, std, scale) for p in (*prompts, prompts[0])])
    actor = agent.actor(prompt=prompts, episodes=3)
    seen, actions, left = [], [], [np.full(3, target)]
    for t in range(6):
        seen.append(3 + rng.normal(size=(3, 11)))
        rewards = rng.uniform(0, 2, 3) if t else None
        if t:
            left.append(left[-1] - rewards)
        found = actor.act(seen[-1], rewards)
        window = range(max(0, t - 3), t + 1)
        taken = [*actions, np.zeros((3, 3))]
        shown = 0 if method == "bc" else 1 / scale
        segment = segment_of(
            [
                np.stack([padded((seen[s] - mean) / std, 39) for s in window], axis=1),
                np.stack([padded(taken[s], 8) for s in window], axis=1),
                np.stack([left[s] * shown for s in window], axis=1)[..., None],
                np.array([list(window)] * 3),
                np.ones((3, len(window))),
            ]
        )
        with torch.no_grad():
            expected = model(segment, prompt)[:, -1, :3]
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=2e-5)
        actions.append(found)


def features(trajectory, mean, std, scale):
    """Describe a prompt by its raw states, normalised states, actions and rewards."""
    steps = range(max(0, len(trajectory.rewards) - 1 - 3), len(trajectory.rewards))[:3]
    raw = trajectory.observations[steps]
    rewards = trajectory.rewards[steps][:, None] / scale
    rewards[-1] = 0  # the prompt does not show what came after its last step
    parts = padded(raw, 39), padded((raw - mean) / std, 39), padded(trajectory.actions[steps], 8)
    each = np.concatenate([*parts, rewards], axis=1)
    return np.concatenate([each.mean(axis=0), each.std(axis=0)])


def with_gates(model, rows):
    """Return a plain model in which the prompt router's choice for each row is given."""
    gates = model.prompt_router(torch.tensor(np.stack(rows), dtype=torch.float32))
    given = GivenGates(dense_gates(*top_gates(gates, 2, 0.9), 2))
    return with_routers(model, [given] * len(model.mixtures))


def segment_of(arrays):
    types = (torch.float32, torch.float32, torch.float32, torch.int64, torch.float32)
    return Segment(*(torch.tensor(a, dtype=t) for a, t in zip(arrays, types, strict=True)))


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


def test_target_and_scale_of_a_prompt_are_the_callers(agents):
    """A target in another unit, with its scale, asks for the same."""
    (prompt,) = trajectories(np.random.default_rng(0), (20,))
    scaled = replace(prompt, rewards=prompt.rewards * 10)
    found = []
    for given in (
        {"prompt": prompt, "target": 30.0, "return_scale": 4.0},
        {"prompt": scaled, "target": 300.0, "return_scale": 40.0},
        {"prompt": prompt},
        {"prompt": prompt, "target": prompt.episode_return},
        {"prompt": prompt, "return_scale": prompt.episode_return / 5},
        {"prompt": prompt, "target": 1.0},
    ):
        found.append(agents["token"].actor(**given).act(np.ones(11)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found[2], found[3], atol=1e-6)
    np.testing.assert_allclose(found[2], found[4], atol=1e-6)
    assert np.abs(found[2] - found[0]).max() > 1e-4 < np.abs(found[2] - found[5]).max()
    empty = replace(prompt, rewards=prompt.rewards * 0)
    assert np.isfinite(agents["token"].actor(prompt=empty).act(np.ones(11))).all()


def test_a_task_is_asked_for_the_callers_target(agents):
    """`target` replaces what the settings say, which scale the task's own."""
    observation, asked = np.ones(39), {}
    for target, scale in ((None, 1.0), (None, 0.5), (2250.0, 1.0), (2250.0, 0.1)):
        config = EvaluationConfig(target_scale=scale)
        actor = agents["token"].actor("reach-v2", target=target, config=config)
        asked[target, scale] = actor.act(observation).tolist()
    assert asked[None, 0.5] == asked[2250.0, 1.0] == asked[2250.0, 0.1] != asked[None, 1.0]


@pytest.mark.parametrize("method", ["mtdt", "harmodt"])
def test_methods_with_parts_for_each_task_refuse_prompts(agents, method):
    (prompt,) = trajectories(np.random.default_rng(0), (9,))
    with pytest.raises(UserError, match="a part of its own for each task.*It knows reach-v2, walk"):
        agents[method].actor(prompt=prompt)


def test_an_agent_that_knows_no_task_acts_by_a_prompt(agents):
    """An imported checkpoint without data."""
    agent = replace(agents["backbone"], context=TaskContext.empty())
    (prompt,) = trajectories(np.random.default_rng(0), (9,))
    acted = (a.actor(prompt=prompt).act(np.ones(11)) for a in (agent, agents["backbone"]))
    np.testing.assert_array_equal(*acted)


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
    with pytest.raises(ValueError, match=message):
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
        ({"config": {"seed": 1}}, r"config={'seed': 1}: give m3dt.config.EvaluationConfig"),
    ],
)
def test_evaluate_refuses_other_types(agents, given, message):
    with pytest.raises(UserError, match=message):
        m3dt.evaluate(agents["token"], **given)


def test_numbers_of_episodes_are_whole(agents):
    actor = agents["token"].actor("reach-v2", episodes=np.int64(2))
    actor.reset(first=np.int32(3))
    for first in ("a", 1.5):
        with pytest.raises(UserError, match=f"reset: first={first!r} must be a whole number"):
            actor.reset(first=first)


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
