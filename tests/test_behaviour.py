"""Behaviour policies: batched simulations against real environments, ladders, training, packing."""

import dataclasses
import json
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest

from m3dt.behaviour import Ladder, Library, Noise, Player, Rung
from m3dt.behaviour.learning.shaping import acrobot_energy
from m3dt.behaviour.learning.simulation import simulate
from m3dt.behaviour.library import BEST, SHIPPED, policy_name, read_record
from m3dt.behaviour.network import Network, input_dim, load_networks, policy_input, save_networks
from m3dt.behaviour.policy import ScriptedPolicy
from m3dt.tasks import TASKS, get_task, make_env
from m3dt.utils.errors import UserError

SIMULATED = [name for name, spec in TASKS.items() if spec.domain == "dmcontrol"]
SIMULATED += ["cheetah-vel-7", "ant-dir-7"]


def same_state(env, spec, simulation):
    """Put a real environment into the state, target and goal of the first simulation."""
    env.reset(seed=0)
    qpos, qvel = simulation.rollouts.qpos[0], simulation.rollouts.qvel[0]
    if spec.domain != "dmcontrol":
        env._goal = simulation.goals[0].copy()
        env.set_state(qpos, qvel)
        return env._goal
    model = env.physics.named.model
    if spec.name.startswith(("reacher", "fish")):
        model.geom_pos["target"] = simulation._target[0]
    if spec.name.startswith("finger-turn"):
        model.site_pos["target"] = simulation._target[0]
    env.place(qpos.copy(), qvel.copy())
    return np.zeros(())


@pytest.mark.parametrize("name", SIMULATED)
def test_simulation_equals_the_real_environment(name):
    """Policies train on the inputs and rewards of the environment that they are judged in."""
    spec = get_task(name)
    simulation = simulate(spec, 3, 1, seed=0)
    first = simulation.begin(np.arange(3))
    assert first.shape == (3, input_dim(spec))
    env = make_env(name)
    goal = same_state(env, spec, simulation)
    rng = np.random.default_rng(0)
    # The real ant's torso position comes from the integrator's last stage.
    tolerance = 0.1 if spec.domain == "ant-dir" else 1e-6
    for _ in range(40):
        actions = rng.uniform(-1, 1, (3, spec.action_dim))
        step = simulation.step(actions)
        observation, reward, terminated, *_ = env.step(actions[0])
        inputs = policy_input(spec, observation.astype(np.float64), goal)
        np.testing.assert_allclose(step.inputs[0], inputs, rtol=1e-6, atol=5e-6)
        assert step.rewards[0] == pytest.approx(reward, abs=tolerance)
        assert step.terminated[0] == terminated


def test_acrobots_energy_is_conserved_and_zero_at_the_top():
    """MuJoCo simulates it without friction and torque."""
    env = make_env("acrobot-swingup")
    env.reset(seed=0)
    model, data = env.physics.model.ptr, env.physics.data.ptr
    model.dof_damping[:] = 0

    def energy():
        view = SimpleNamespace(model=model, qpos=data.qpos[None], qvel=data.qvel[None])
        return float(acrobot_energy(view)[0])

    data.qpos[:], data.qvel[:] = 0, 0
    assert energy() == pytest.approx(0, abs=1e-9)
    data.qpos[:] = np.pi, 0
    hanging = energy()
    data.qpos[:], data.qvel[:] = (2.0, 1.0), (1.0, -3.0)
    before = energy()
    for _ in range(100):
        mujoco.mj_step(model, data)
    assert energy() == pytest.approx(before, abs=1e-3)
    # Both links fall by twice the height of their centres.
    assert hanging == pytest.approx(-9.81 * (2 * 0.5 + 2 * 1.5), rel=1e-3)


def test_ants_input_does_not_depend_on_direction():
    """Rotating the world and the goal together does not change the input."""
    rng = np.random.default_rng(0)
    spec, angle, goal = get_task("ant-dir-0"), 1.234, 0.7
    env = make_env("ant-dir-0")
    env.reset(seed=0)
    qpos, qvel = env.model.qpos0 + rng.normal(0, 0.1, 15), rng.normal(0, 1, 14)
    qpos[3:7] /= np.linalg.norm(qpos[3:7])
    before = env.set_state(qpos, qvel).astype(np.float64)
    c, s = np.cos(angle / 2), np.sin(angle / 2)
    w, x, y, z = qpos[3:7]
    qpos[3:7] = c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    qvel[:2] = turn @ qvel[:2]
    after = env.set_state(qpos, qvel).astype(np.float64)
    one = policy_input(spec, before, np.array(goal))
    other = policy_input(spec, after, np.array(goal + angle))
    np.testing.assert_allclose(one, other, atol=1e-6)
    # The goal points along x: the first component is the velocity towards it.
    along = qvel[0] * np.cos(goal + angle) + qvel[1] * np.sin(goal + angle)
    assert other[13] == pytest.approx(along, abs=1e-6)


@pytest.mark.parametrize("name", ["reacher-hard", "reacher-three-easy"])
def test_reachers_input_does_not_depend_on_the_shoulder(name):
    spec, env = get_task(name), make_env(name)
    env.reset(seed=3)
    model, angle = env.physics.named.model, 0.9
    qpos, qvel = env.physics.data.qpos.copy(), env.physics.data.qvel.copy()
    before = policy_input(spec, env.place(qpos, qvel).astype(np.float64), np.zeros(()))
    x, y, _ = model.geom_pos["target"]
    model.geom_pos["target", ["x", "y"]] = (
        np.cos(angle) * x - np.sin(angle) * y,
        np.sin(angle) * x + np.cos(angle) * y,
    )
    qpos[0] += angle
    after = policy_input(spec, env.place(qpos, qvel).astype(np.float64), np.zeros(()))
    np.testing.assert_allclose(before, after, atol=1e-6)


def network(rng, widths=(6, 5, 2)):
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    return Network(
        rng.normal(size=widths[0]).astype(np.float32),
        rng.uniform(1, 2, widths[0]).astype(np.float32),
        tuple(rng.normal(size=(o, i)).astype(np.float16).astype(np.float32) for i, o in pairs),
        tuple(rng.normal(size=o).astype(np.float16).astype(np.float32) for _, o in pairs),
    )


def test_network_is_a_tanh_perceptron_and_survives_the_disk(tmp_path):
    rng = np.random.default_rng(0)
    net = network(rng)
    x = rng.normal(size=(4, 6))
    normal = np.clip((x - net.mean) / net.std, -10, 10)
    hidden = np.tanh(normal @ net.weights[0].T + net.biases[0])
    expected = np.clip(hidden @ net.weights[1].T + net.biases[1], -1, 1)
    np.testing.assert_allclose(net(x), expected)
    save_networks(tmp_path / "p.safetensors", {"1": network(rng), "best": net})
    loaded = load_networks(tmp_path / "p.safetensors")
    assert list(loaded) == ["1", "best"]
    np.testing.assert_array_equal(loaded["best"](x), net(x))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_ladder(name):
    ladder = Ladder(get_task(name), Library())
    assert ladder.rungs[0].noise.random_chance == 1 and ladder.best.noise == Noise()


def test_script_holds_still_after_success():
    spec = get_task("push-v2")
    policy = ScriptedPolicy(spec, hold_after=2)
    observation, _ = make_env("push-v2", seed=0).reset(seed=0)
    moving = policy.act(observation, success=False)
    assert np.abs(moving[:3]).max() > 0
    for _ in range(2):
        assert np.array_equal(policy.act(observation, success=True), moving)
    assert policy.act(observation, success=True).tolist() == [0, 0, 0, moving[3]]
    policy.begin()
    assert np.array_equal(policy.act(observation, success=False), moving)


def test_noise_has_the_given_strength():
    rng = np.random.default_rng(0)
    action = np.array([0.5, -0.5])
    assert np.array_equal(Noise().apply(action, False, rng), action.astype(np.float32))
    noisy = np.array([Noise(gaussian_std=0.2).apply(action, False, rng) for _ in range(2000)])
    np.testing.assert_allclose(noisy.mean(0), action, atol=0.02)
    np.testing.assert_allclose(noisy.std(0), 0.2, atol=0.02)
    random = np.array([Noise(random_chance=0.5).apply(action, False, rng) for _ in range(2000)])
    assert np.mean(random[:, 0] == 0.5) == pytest.approx(0.5, abs=0.05)
    assert not np.array_equal(Noise().apply(action, True, rng), action)
    phases = np.array([Noise(num_phases=2).phases(200, rng) for _ in range(200)])
    assert phases[:, 139:].sum() == 0 and 10 < phases.sum(1).mean() < 80


def write_policies(folder, name, widths, rungs=("1", "2", BEST)):
    rng = np.random.default_rng(0)
    save_networks(folder / f"{name}.safetensors", {rung: network(rng, widths) for rung in rungs})


def test_own_policies_override_the_packages(tmp_path):
    spec = get_task("walker-walk")
    write_policies(tmp_path, "walker-walk", (24, 8, 6))
    ladder = Ladder(spec, Library(tmp_path))
    names = [rung.policy for rung in ladder.rungs]
    assert names[0] == BEST and names[1:3] == ["1", "2"] and set(names[3:]) == {BEST}
    assert ladder.describe()["policies"] == Library(tmp_path).checksum(spec)
    trajectory = Player(spec, Library(tmp_path)).play(Rung("1"), np.random.default_rng(0))
    assert trajectory.observations.shape == (500, 24) and trajectory.actions.shape == (500, 6)


def test_missing_policy_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("m3dt.behaviour.library.SHIPPED", tmp_path)
    with pytest.raises(UserError, match="m3dt behaviour train walker-walk"):
        Ladder(get_task("walker-walk"), Library())
    assert Ladder(get_task("reach-v2"), Library()).rungs


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_damaged_or_foreign_policies_are_refused(tmp_path, content):
    if content is None:
        write_policies(tmp_path, "walker-walk", (24, 8, 5))
    else:
        (tmp_path / "walker-walk.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="not the policies of walker-walk"):
        Ladder(get_task("walker-walk"), Library(tmp_path))
    with pytest.raises(UserError, match="no folder"):
        Library(tmp_path / "typo")


def test_goals_share_a_policy():
    assert {policy_name(TASKS[f"ant-dir-{i}"]) for i in range(40)} == {"ant-dir"}
    assert policy_name(get_task("walker-walk")) == "walker-walk"


def test_every_policy_has_a_recipe():
    from m3dt.behaviour.learning.recipes import RECIPES

    needed = {policy_name(spec) for spec in TASKS.values() if spec.domain != "metaworld"}
    assert set(RECIPES) == needed
    for recipe in RECIPES.values():
        assert not recipe.start_from or recipe.start_from in RECIPES


RECORD = read_record(SHIPPED)


@pytest.mark.long
@pytest.mark.parametrize("policy", RECORD)
def test_shipped_policy_plays_as_recorded(policy):
    """It returns what its record says in the real environment, far more than random play."""
    spec = next(s for s in TASKS.values() if policy_name(s) == policy)
    player, rng = Player(spec, Library()), np.random.default_rng(0)
    rungs, record = player.ladder.rungs, RECORD[policy]
    random = player.play(rungs[0], rng).episode_return
    enough, best = random + 0.5 * (record["return_mean"] - random), []
    while len(best) < 2 or (max(best) <= enough and len(best) < 8):  # some fail at times
        best.append(player.play(player.ladder.best, rng).episode_return)
    low, high = record["return_quartiles"][0], record["return_quartiles"][-1]
    margin = 0.1 * (high - random)
    assert low - margin <= min(best) and max(best) <= high + margin
    assert max(best) > enough
    assert [name for name in record["rungs"]][-1] == BEST
    assert len(rungs) == 7 + len(record["rungs"]) - 1


def test_record_holds_the_recipes():
    """`m3dt behaviour train` would train today with the recorded settings."""
    from m3dt.behaviour.learning.recipes import RECIPES

    for policy, record in RECORD.items():
        assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(RECIPES[policy])))


def test_shipped_policies_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 12e6


class TestTraining:
    """Trainings of a few seconds: files, resuming, packing."""

    pytestmark = [pytest.mark.filterwarnings("ignore")]

    @pytest.fixture
    def recipe(self):
        pytest.importorskip("stable_baselines3")
        from m3dt.behaviour.learning.recipes import Recipe

        return Recipe(steps=2048, snapshots=4, num_envs=16, rollout_steps=32, batch_size=64)

    @pytest.mark.long
    def test_resumes_and_packs(self, tmp_path, recipe, monkeypatch):
        from m3dt.behaviour.learning import pack, ppo

        spec = get_task("pendulum-spin")
        monkeypatch.setattr(
            ppo._SnapshotSaver, "_on_step", lambda saver: saver.num_timesteps < 1200
        )
        ppo.train(spec, tmp_path / "t", recipe)
        monkeypatch.undo()
        assert [s.steps for s in pack.read_progress(tmp_path / "t")] == [0, 512, 1024]
        kept = (tmp_path / "t" / "snapshots" / "0001.safetensors").read_bytes()
        ppo.train(spec, tmp_path / "t", recipe)
        assert [s.steps for s in pack.read_progress(tmp_path / "t")] == [0, 512, 1024, 1536, 2048]
        assert (tmp_path / "t" / "snapshots" / "0001.safetensors").read_bytes() == kept
        record = pack.pack(spec, tmp_path / "t", tmp_path / "library")
        assert record["recipe"] == json.loads(json.dumps(dataclasses.asdict(recipe)))
        assert record["seed"] == 0
        networks = Library(tmp_path / "library").networks(spec)
        assert list(networks) == list(record["rungs"]) and list(networks)[-1] == BEST
        measured = pack.measured_returns(spec, networks[BEST])
        assert record["return_mean"] == pytest.approx(np.mean(measured), abs=0.1)

    def test_extracted_network_is_the_policy(self, tmp_path, recipe):
        from stable_baselines3 import PPO
        from stable_baselines3.common.vec_env import VecNormalize

        from m3dt.behaviour.learning import pack, ppo
        from m3dt.behaviour.learning.vec_env import SimulatedVecEnv

        spec = get_task("cartpole-balance")
        ppo.train(spec, tmp_path, dataclasses.replace(recipe, steps=512, snapshots=1))
        env = SimulatedVecEnv(spec, 16, 0)
        normalizer = VecNormalize.load(str(tmp_path / ppo.NORMALIZER), env)
        model = PPO.load(tmp_path / ppo.CHECKPOINT, device="cpu")
        inputs = env.reset()
        expected, _ = model.predict(normalizer.normalize_obs(inputs), deterministic=True)
        found = pack.load_snapshot(tmp_path, 1)(inputs)
        np.testing.assert_allclose(found, expected, atol=5e-3)  # float16 on disk

    def test_refuses_another_recipe_or_seed(self, tmp_path, recipe):
        from m3dt.behaviour.learning import ppo

        spec = get_task("cartpole-balance")
        done = dataclasses.replace(recipe, enough=1.0)
        ppo.train(spec, tmp_path, done)
        for settings in ((recipe, 0), (done, 1)):
            with pytest.raises(UserError, match="another recipe or seed"):
                ppo.train(spec, tmp_path, *settings)

    def test_stops_at_a_sufficient_return(self, tmp_path, recipe):
        from m3dt.behaviour.learning import pack, ppo

        spec = get_task("cartpole-balance")
        easy = dataclasses.replace(recipe, enough=1.0)
        for _ in range(2):
            ppo.train(spec, tmp_path, easy)
            assert len(pack.read_progress(tmp_path)) == 1

    def test_rungs_divide_the_range(self):
        pytest.importorskip("stable_baselines3")
        from m3dt.behaviour.learning.pack import Snapshot, choose_rungs

        snapshots = [Snapshot(i, i, i, 10.0 * i) for i in range(11)]
        rungs = choose_rungs(snapshots, snapshots[10])
        assert [s.simulated_return for s in rungs] == [20, 40, 60, 80]
        assert choose_rungs(snapshots, snapshots[0]) == []
