"""Environments of DMControl, cheetah-vel and ant-dir, against recorded rollouts and formulas."""

from pathlib import Path

import numpy as np
import pytest

from m3dt.tasks import TASKS, make_env

GOLDEN = np.load(Path(__file__).parent / "data" / "environment_rollouts.npz")
GOLDEN_TASKS = list(dict.fromkeys(name.split("/")[0] for name in GOLDEN))
OTHERS = [name for name, spec in TASKS.items() if spec.domain != "metaworld"]
# Tests of whole episodes use one goal per robot; another test covers the goals.
KINDS = [n for n in OTHERS if TASKS[n].domain == "dmcontrol"] + ["cheetah-vel-7", "ant-dir-7"]


def place(env, golden):
    """Put an environment into a recorded state and return the observation there."""
    env.reset(seed=0)
    if not hasattr(env.unwrapped, "physics"):
        return env.unwrapped.set_state(golden["qpos"], golden["qvel"])
    for name in ("geom_pos", "site_pos", "body_pos"):
        getattr(env.unwrapped.physics.model, name)[:] = golden[name]
    return env.unwrapped.place(golden["qpos"], golden["qvel"])


@pytest.mark.parametrize("task", GOLDEN_TASKS)
def test_golden_rollouts(task):
    golden = {n.split("/")[1]: GOLDEN[n] for n in GOLDEN if n.startswith(f"{task}/")}
    env = make_env(task)
    observations, rewards, ended = [place(env, golden)], [], []
    for action in golden["actions"]:
        observation, reward, terminated, _, _ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
        ended.append(terminated)
    np.testing.assert_allclose(observations, golden["observations"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(rewards, golden["rewards"], rtol=0, atol=1e-6)
    assert np.array_equal(ended, golden.get("terminated", np.zeros(len(ended), bool)))


def episode(env, seed, steps=None):
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    trace, total, done = [observation], 0.0, False
    while not done and (steps is None or len(trace) <= steps):
        action = rng.uniform(-1, 1, env.action_space.shape)
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation.dtype == np.float32 and np.isfinite(observation).all()
        assert info["success"] is False
        trace.append(observation)
        total += reward
        done = terminated or truncated
    return np.array(trace), total


@pytest.mark.parametrize("task", KINDS)
def test_episode_is_reproducible_and_scored(task):
    """A used environment, reset to a seed, equals a new one bit for bit up to the horizon."""
    spec = TASKS[task]
    env = make_env(task, seed=5)
    trace, total = episode(env, 7)
    assert trace.shape[1] == spec.state_dim == env.observation_space.shape[0]
    assert len(trace) == spec.horizon + 1 or spec.domain == "ant-dir"
    assert 0 <= spec.normalized_score(total, False) <= 100
    other, _ = episode(env, 8, steps=20)
    assert not np.array_equal(other[0], trace[0])
    again, _ = episode(env, 7, steps=20)
    fresh, _ = episode(make_env(task), 7, steps=20)
    assert np.array_equal(again, trace[:21]) and np.array_equal(fresh, again)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_reaches_its_horizon(task):
    spec = TASKS[task]
    env = make_env(task)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=3)
    assert np.array_equal(make_env(task).reset(seed=3)[0], observation)
    assert observation.shape == (spec.state_dim,)
    total, success, steps, done = 0.0, False, 0, False
    while not done:
        action = rng.uniform(-1, 1, spec.action_dim)
        observation, reward, terminated, truncated, info = env.step(action)
        total, success, steps = total + reward, success or info["success"], steps + 1
        done = terminated or truncated
    assert np.isfinite(observation).all() and np.isfinite(total)
    assert steps == spec.horizon or spec.domain == "ant-dir"
    assert 0 <= spec.normalized_score(total, success) <= 100


@pytest.mark.parametrize("domain", ["cheetah-vel", "ant-dir"])
def test_goals_change_rewards_alone(domain):
    """All 40 goals have the same physics; each reward is the formula with its own goal."""
    names = [name for name in OTHERS if TASKS[name].domain == domain]
    assert len(names) == 40
    action = np.full(TASKS[names[0]].action_dim, 0.3)
    for name in names:
        env, goal = make_env(name), TASKS[name].goal
        first, _ = env.reset(seed=1)
        torso = env.data.body("torso").xpos[:2].copy() if domain == "ant-dir" else None
        x = env.data.qpos[0]
        second, reward, *_ = env.step(action)
        if domain == "ant-dir":
            velocity = (env.data.body("torso").xpos[:2] - torso) / 0.05
            along = velocity @ [np.cos(goal), np.sin(goal)]
            expected = along - 0.5 * 8 * 0.09 + 1
        else:
            expected = -abs((env.data.qpos[0] - x) / 0.05 - goal) - 0.05 * 6 * 0.09
        assert reward == pytest.approx(expected, abs=1e-9)
        if name == names[0]:
            reference = first, second
        assert np.array_equal(first, reference[0]) and np.array_equal(second, reference[1])


@pytest.mark.parametrize(
    ("height", "velocity", "healthy"),
    [
        (0.19, 0.0, False),
        (0.2, 0.0, True),
        (1.0, 0.0, True),
        (1.01, 0.0, False),
        (0.5, np.nan, False),
    ],
)
def test_healthy_ants(height, velocity, healthy):
    from m3dt.tasks.locomotion import ant_is_healthy

    qpos, qvel = np.zeros((3, 15)), np.zeros((3, 14))
    qpos[:, 2] = 0.6
    qpos[1, 2], qvel[1, 5] = height, velocity
    assert ant_is_healthy(qpos, qvel).tolist() == [True, healthy, True]


@pytest.mark.parametrize("task", ["ant-dir-0", "cheetah-vel-0", "walker-walk"])
def test_a_diverged_simulation_ends_the_episode(task):
    """MuJoCo resets or dm_control raises; the step is the last one and its reward is 0."""
    env = make_env(task)
    env.reset(seed=0)
    assert not env.step(np.zeros(env.action_space.shape))[2]
    data = env.physics.data if task == "walker-walk" else env.data
    data.qvel[3] = 1e12
    _, reward, terminated, *_ = env.step(np.zeros(env.action_space.shape))
    assert terminated and reward == 0
    env.reset(seed=1)
    assert not env.step(np.zeros(env.action_space.shape))[2]
    _, reward, terminated, *_ = env.step(np.full(env.action_space.shape, np.nan))
    assert terminated and reward == 0


def test_episode_ends_when_the_ant_falls():
    env = make_env("ant-dir-0")
    env.reset(seed=0)
    qpos = env.model.qpos0.copy()
    assert env.set_state(qpos, np.zeros(14)).shape == (27,)
    assert not env.step(np.zeros(8))[2]
    qpos[2] = 1.3
    env.set_state(qpos, np.zeros(14))
    assert env.step(np.zeros(8))[2]


def test_cup_spin_mostly_starts_in_the_cup():
    env = make_env("cup-spin")
    inside = []
    for seed in range(100):
        env.reset(seed=seed)
        inside.append(env.physics.in_target())
    assert 80 <= sum(inside) < 100


def test_rendering_is_not_imported():
    """Building our environments loads no renderer; only Meta-World's package loads glfw."""
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from m3dt.tasks import make_env\n"
        "for name in ('walker-walk', 'ant-dir-0', 'cheetah-vel-0'): make_env(name)\n"
        "assert 'glfw' not in sys.modules and 'OpenGL' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
