"""The catalogue, the suites, the scores, and Meta-World's environments."""

from pathlib import Path

import numpy as np
import pytest

from m3dt.behaviour import Library, Player, Rung
from m3dt.tasks import DOMAINS, TASKS, get_task, make_env, paper_score, suite
from m3dt.tasks.metaworld import _compile
from m3dt.utils.errors import UserError

METAWORLD = [name for name, spec in TASKS.items() if spec.domain == "metaworld"]


def test_catalogue():
    domains = [spec.domain for spec in TASKS.values()]
    counts = {domain: domains.count(domain) for domain in dict.fromkeys(domains)}
    assert counts == {"metaworld": 50, "dmcontrol": 30, "ant-dir": 40, "cheetah-vel": 40}
    assert max(spec.state_dim for spec in TASKS.values()) == 39
    assert max(spec.action_dim for spec in TASKS.values()) == 8
    assert get_task("cheetah-vel-0").goal == pytest.approx(0.075)
    assert get_task("cheetah-vel-39").goal == pytest.approx(3.0)
    assert get_task("reach-v2").env_id == "reach-v3"


def test_other_types_are_refused():
    for name in (None, 3, []):
        with pytest.raises(UserError, match="is no name of a task"):
            make_env(name)
    with pytest.raises(UserError, match="seed='a' must be a whole number"):
        make_env("reach-v2", seed="a")


def test_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="reach-v2"):
        get_task("reach-v1")


@pytest.mark.parametrize("size", [10, 20, 40, 80, 120])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_paper_suites(size, seed):
    names = suite(f"mt{size}", seed)
    assert len(set(names)) == size
    assert set(names) <= set(TASKS)


def counts(names):
    domains = [get_task(name).domain for name in names]
    return {domain: domains.count(domain) for domain in DOMAINS}


@pytest.mark.parametrize("size", [4, 10, 16, 33, 100, 159])
def test_selection_keeps_ratio_and_difficulty(size):
    """Every other size or seed gives another subset by the paper's rule."""
    subsets = [suite(f"mt{size}", seed) for seed in (3, 4, 5)]
    mean = np.mean([paper_score(name) for name in TASKS])
    for names in subsets:
        assert len(set(names)) == size
        for domain, share in {"metaworld": 50, "dmcontrol": 30, "cheetah-vel": 40}.items():
            assert abs(counts(names)[domain] - size * share / 160) < 1
        if size >= 10:
            assert np.mean([paper_score(n) for n in names]) == pytest.approx(mean, abs=0.5)
    assert len(set(subsets)) == 3 or size == 159
    assert subsets[0] == suite(f"mt{size}", 3)


def test_suites_differ_by_seed_and_reject_others():
    assert suite("mt10", 0) != suite("mt10", 1)
    assert suite("mt160") == tuple(TASKS)
    assert counts(suite("quickstart")) == {
        "metaworld": 3,
        "dmcontrol": 5,
        "cheetah-vel": 2,
        "ant-dir": 2,
    }
    for name in ("mt3", "mt161", "mt", "mt1O"):
        with pytest.raises(UserError, match="any mtN"):
            suite(name)


@pytest.mark.parametrize(
    ("task", "episode_return", "success", "score"),
    [
        ("reach-v2", 4000.0, False, 0.0),
        ("reach-v2", 10.0, True, 100.0),
        ("walker-walk", 935.0, False, 93.5),
        ("cheetah-vel-3", -100.0, False, 0.0),
        ("cheetah-vel-3", -30.0, False, 100.0),
        ("cheetah-vel-3", -65.0, False, 50.0),
        ("ant-dir-0", 250.0, False, 50.0),
        ("ant-dir-0", 800.0, False, 100.0),
    ],
)
def test_normalized_score(task, episode_return, success, score):
    assert get_task(task).normalized_score(episode_return, success) == pytest.approx(score)


def roll(env, seed, steps):
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    assert observation.dtype == np.float32
    trace = [observation]
    for _ in range(steps):
        observation, reward, _, _, _ = env.step(rng.uniform(-1, 1, 4))
        trace.append(np.append(observation, reward))
    return np.concatenate(trace)


@pytest.mark.parametrize("name", METAWORLD)
def test_metaworld_reset_is_reproducible(name):
    """A used environment, reset to a seed, equals a new one bit for bit; the goal is visible."""
    env = make_env(name, seed=3)
    first = roll(env, 7, 20)
    other = roll(env, 8, 40)
    assert np.array_equal(first, roll(env, 7, 20))
    assert np.array_equal(first, roll(make_env(name), 7, 20))
    assert np.any(first[36:39] != 0)
    assert not np.array_equal(first[:39], other[:39])
    assert np.array_equal(first[:18], first[18:36])  # previous frame equals the current at reset


@pytest.mark.parametrize("name", ["door-open-v2", "button-press-v2"])
def test_a_copied_model_equals_a_compiled_one(name):
    """Environments move bodies of their model; the next one of the task starts from the file's."""
    used = make_env(name)
    roll(used, 8, 20)
    copied = make_env(name)
    _compile.cache_clear()
    compiled = make_env(name)
    assert np.array_equal(copied._env.model.body_pos, compiled._env.model.body_pos)
    assert not np.array_equal(used._env.model.body_pos, compiled._env.model.body_pos)
    assert np.array_equal(roll(copied, 7, 20), roll(compiled, 7, 20))


def test_episode_ends_at_the_horizon():
    env = make_env("reach-v2")
    env.reset(seed=0)
    ends = [env.step(np.zeros(4))[3] for _ in range(500)]
    assert ends == [False] * 499 + [True]


def test_grasp_test_equals_the_simulators():
    """Our vectorised contact test gives the same answers as the original loop over contacts."""
    player = Player(get_task("pick-place-v2"), Library())
    inner = player.env._env
    original = type(inner).touching_object
    answers = []

    def both(geom):
        answer = original(inner, geom)
        assert fast(geom) == answer
        answers.append(answer)
        return answer

    fast = inner.touching_object
    inner.touching_object = both
    player.play(Rung("script"), np.random.default_rng(9))
    assert any(answers) and not all(answers)


def test_held_out_splits_and_what_they_leave():
    sizes = {name: len(suite(name)) for name in ("cw10", "dmc6", "promptdt", "ml45", "h25")}
    assert sizes == {"cw10": 10, "dmc6": 6, "promptdt": 9, "ml45": 5, "h25": 25}
    assert set(suite("h25")) == {*suite("cw10"), *suite("dmc6"), *suite("promptdt")} <= set(TASKS)
    left = suite("h25-train")
    assert len(left) == 135 and set(left) | set(suite("h25")) == set(TASKS)
    assert {TASKS[task].domain for task in suite("ml45")} == {"metaworld"}
    with pytest.raises(UserError, match="Did you mean 'h25'"):
        suite("h26")


def test_the_results_show_the_quickstarts_tasks():
    lines = (Path(__file__).parents[1] / "docs/results.md").read_text().splitlines()
    shown = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert [name for name in shown if name in TASKS] == list(suite("quickstart"))
