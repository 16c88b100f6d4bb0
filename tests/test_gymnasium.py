"""The tasks as gymnasium's own tools see them."""

import re
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from m3dt.envs import environment_id
from m3dt.tasks import DOMAINS, TASKS, make_env
from m3dt.utils.errors import UserError

ONE_PER_DOMAIN = ("reach-v2", "cup-catch", "cheetah-vel-8", "ant-dir-3")
UNBOUNDED = "A Box observation space m[a-z]+ value is -?infinity"


def test_the_name_with_the_module_works_in_a_new_process():
    code = (
        "import gymnasium; env = gymnasium.make('m3dt.envs:m3dt/walker-walk-v0');"
        "print(env.spec.id, env.reset(seed=0)[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "m3dt/walker-walk-v0 (24,)\n"


def test_every_task_has_one_id():
    assert len({environment_id(task) for task in TASKS}) == 160
    for task, spec in TASKS.items():
        registered = gymnasium.spec(f"m3dt/{task}-v0")
        assert registered.name == task and registered.version == 0
        assert registered.max_episode_steps == spec.horizon


def checked(task):
    """Run gymnasium's checks; return what they warn of, but for unbounded observations."""
    env = gymnasium.make(environment_id(task)).unwrapped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    env.close()
    return [str(w.message) for w in caught if not re.search(UNBOUNDED, str(w.message))]


@pytest.mark.parametrize("task", ONE_PER_DOMAIN)
def test_gymnasiums_checks_are_clean(task):
    assert {TASKS[name].domain for name in ONE_PER_DOMAIN} == set(DOMAINS)
    assert checked(task) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_gymnasiums_checks_are_clean_for_every_task(task):
    assert checked(task) == []


def play(env, seed):
    env.action_space.seed(seed)
    steps, done = [(env.reset(seed=seed)[0], 0.0, False, False, {})], False
    while not done:
        steps.append(env.step(env.action_space.sample()))
        done = steps[-1][2] or steps[-1][3]
    return steps


@pytest.mark.parametrize("task", ["cheetah-vel-8", "ant-dir-3"])
def test_episodes_are_those_of_make_env(task):
    """gymnasium's time limit ends no episode that the task does not end itself."""
    ours, theirs = play(make_env(task), 1), play(gymnasium.make(environment_id(task)), 1)
    assert len(ours) == 201 or ours[-1][2]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:] == other[1:]


def test_vector_environments():
    names = [environment_id("cheetah-vel-8")] * 2
    envs = gymnasium.make_vec(names[0], num_envs=2)
    start, _ = envs.reset(seed=3)
    singles = [gymnasium.make(name) for name in names]
    expected = [env.reset(seed=3 + i)[0] for i, env in enumerate(singles)]
    np.testing.assert_array_equal(start, expected)
    actions = np.full((2, 6), 0.5, np.float32)
    for _ in range(200):
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        stepped = [env.step(action) for env, action in zip(singles, actions, strict=True)]
        np.testing.assert_array_equal(observations, [step[0] for step in stepped])
        np.testing.assert_array_equal(rewards, [step[1] for step in stepped])
    assert not terminations.any() and truncations.all()
    np.testing.assert_array_equal(infos["success"], [False, False])
    envs.close()


def test_without_a_seed_episodes_are_random():
    first, second = gymnasium.make_vec(environment_id("ant-dir-3"), num_envs=2).reset()[0]
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("task", ONE_PER_DOMAIN)
def test_seeds_may_have_any_size(task):
    env, other = make_env(task), make_env(task)
    for large, small in ((2**32, 0), (2**70 + 5, 5)):
        start = env.reset(seed=large)[0]
        np.testing.assert_array_equal(start, other.reset(seed=large)[0])
        assert not np.array_equal(start, other.reset(seed=small)[0])


def test_render_modes():
    name = environment_id("cheetah-vel-8")
    assert gymnasium.make(name).render_mode == "rgb_array"
    assert gymnasium.make(name, render_mode=None).render_mode is None
    assert gymnasium.make(name, render_mode="rgb_array_list").render_mode == "rgb_array_list"
    with pytest.warns(UserWarning, match="ansi"), pytest.raises(UserError, match="rgb_array"):
        gymnasium.make(name, render_mode="ansi")


OWN = """
import gymnasium
import m3dt.tasks

def make_env():
    return gymnasium.make("Pendulum-v1", g=1.0)

m3dt.tasks.register_task(m3dt.tasks.TaskSpec("swing.1", "own", 3, 1, 200), make_env)
"""


def test_environments_of_own_tasks_are_recovered(tmp_path):
    (tmp_path / "swinging.py").write_text(OWN)
    code = (
        "import sys, gymnasium, m3dt.tasks.registration as r\n"
        "from m3dt.envs import environment_spec\n"
        "if sys.argv[1:]:\n"
        "    for text in sys.argv[1:]:\n"
        "        env = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(text))\n"
        "        print(env.spec.id, env.action_space.high, env.spec.max_episode_steps)\n"
        "else:\n"
        "    r.import_plugins(['swinging'])\n"
        "    for task in ('gym:Pendulum-v1', 'swing.1'):\n"
        "        print(environment_spec(task).to_json())\n"
    )
    command = [sys.executable, "-c", code]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        command += done.stdout.splitlines()
    assert done.stdout.splitlines() == [
        "m3dt/gym_Pendulum-v1-18d82de3-v0 [1.] 200",
        "m3dt/swing_1-95a2bc3e-v0 [1.] 200",
    ]
