"""Tasks of a user's own: registered, checked and played."""

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import own_tasks
import pytest
from gymnasium.spaces import Box
from quick_run import QUICK

from m3dt.behaviour import Library, Player
from m3dt.cli import main
from m3dt.cli.evaluating import check_films
from m3dt.config import EvaluationConfig
from m3dt.data import DatasetStore
from m3dt.evaluation import RandomPolicy, evaluate_policy
from m3dt.evaluation.scores import shares_of_target
from m3dt.study.cell_results import RETURN
from m3dt.study.csv_tables import read_study_table, read_table
from m3dt.tasks import TaskSpec, get_task, make_env, register_task, registration
from m3dt.tasks.catalog import DOMAINS, TASKS
from m3dt.tasks.registration import plugin_modules
from m3dt.utils.console import make_console
from m3dt.utils.errors import RunError, UserError
from m3dt.utils.paths import file_stem

OWN = [*QUICK, "plugins=[own_tasks]"]
ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples/own_task"
TABLES = [file for file in ROOT.glob("results/*.csv") if "cell" in read_table(file)[0]]


def test_observations_are_flat_and_actions_rescaled():
    env = make_env("near", seed=3)
    observation, _ = env.reset(seed=3)
    assert observation.shape == (own_tasks.STATES,) and observation.dtype == np.float32
    assert (observation[:5] == 1).all()  # "a" comes before "b"
    same = own_tasks.Reaching()
    same.reset(seed=3)
    np.testing.assert_array_equal(env.reset(seed=3)[0][5:], same.reset(seed=3)[0]["b"])
    for action, native in ((-1, -2), (0, 2), (1, 6), (7, 6)):
        _, reward, _, _, info = env.step(np.full(own_tasks.ACTIONS, action, np.float32))
        np.testing.assert_allclose(env._env.taken, native)
        assert reward == pytest.approx(-abs(native - 1)) and not info["success"]
    _, reward, _, _, info = env.step(np.full(own_tasks.ACTIONS, -0.25))
    assert reward == pytest.approx(0) and info["success"]


def test_an_episode_ends_at_the_horizon_and_where_the_environment_ends_it():
    env = make_env("far")
    env.reset(seed=0)
    ends = [env.step(np.zeros(own_tasks.ACTIONS))[2:4] for _ in range(own_tasks.HORIZON)]
    assert ends == [(False, False)] * (own_tasks.HORIZON - 1) + [(False, True)]
    env._env.step = lambda action: ({"a": np.zeros(5), "b": np.zeros(40)}, 0.0, False, True, {})
    env.reset()
    assert env.step(np.zeros(own_tasks.ACTIONS))[2]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("discrete", "its actions are Discrete"),
        ("pictures", "its observations are images"),
        ("boundless", "no finite bounds"),
        ("wrong-width", "registered with 2 states and 2 actions, but its environment has 3 and 2"),
        ("no-environment", "make_env returned a int, not a gymnasium.Env"),
        ("changing", "returned an observation that is not of its observation space"),
        ("gym:CartPole-v1", "its actions are Discrete"),
        ("gym:Nonsense-v0", "gymnasium cannot make it"),
        ("gym:", "gymnasium cannot make it"),
        ("farr", "unknown task 'farr'. Did you mean 'far'?"),
    ],
)
def test_what_cannot_be_a_task_is_one_message(task, message, tmp_path, capsys):
    words = [*OWN, f"tasks=['{task}']", f"data={tmp_path}/data", f"run={tmp_path}/run"]
    assert main(["collect", *words, "collect.workers=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("m3dt: ") and message in error and "Traceback" not in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.hdf5"))


def test_an_environment_that_changes_ends_an_evaluation_with_one_message(tmp_path, capsys):
    words = [*OWN, "tasks=[changing]", f"data={tmp_path}", f"run={tmp_path}/run"]
    assert main(["evaluate", *words, "--models", "random"]) == 2
    assert "no dataset here" in capsys.readouterr().err  # its score would follow from data
    register_task(replace(get_task("changing"), score=(0.0, 1.0)), own_tasks.Changing)
    try:
        assert main(["evaluate", *words, "--models", "random"]) == 2
        error = capsys.readouterr().err
        assert "task 'changing': its environment returned" in error and error.count("\n") == 1
    finally:
        register_task(TaskSpec("changing", "odd", 5, 2, own_tasks.HORIZON), own_tasks.Changing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "reach-v2"}, "one of the 160"),
        ({"name": "a/b"}, "name='a/b' must be letters"),
        ({"domain": ""}, "domain='' must be letters"),
        ({"domain": "metaworld"}, "the domain metaworld has rules of its own"),
        ({"domain": "low"}, "domain='low' is another column of tables of scores: give another"),
        ({"domain": "seed"}, "domain='seed' is another column"),
        ({"domain": "moe.top_k"}, "domain='moe.top_k' is another column"),
        ({"state_dim": 0}, "state_dim=0 must be a whole number, 1 or more"),
        ({"horizon": 2.5}, "horizon=2.5 must be a whole number, 1 or more"),
        ({"name": 3}, "name=3 must be letters"),
        ({"return_scale": 0.0}, "return_scale=0.0 must be a number above 0"),
        ({"return_scale": "1"}, "return_scale='1' must be a number above 0"),
        ({"target_return": math.inf}, "target_return=inf must be a finite number"),
        ({"target_return": None}, "target_return=None must be a finite number"),
        ({"score": ("0", "1")}, "score=('0', '1') must be a function, or the returns"),
        ({"score": (3, 3)}, "score=(3, 3) must be a function, or the returns"),
        ({"score": [0, 1]}, "score=[0, 1] must be a function, or the returns"),
    ],
)
def test_a_specification_is_checked(change, message):
    spec = replace(TaskSpec("mine", "mine", 2, 2, 5), **change)
    with pytest.raises(UserError) as error:
        register_task(spec, own_tasks.Reaching)
    assert message in str(error.value)


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.stem)
def test_no_domain_is_called_as_another_column_of_a_table(file):
    """Its scores would replace those, or the setting, in each row of a study."""
    columns = set(read_study_table(file)[0])
    domains = {*DOMAINS, *(name for name in columns if f"{name}{RETURN}" in columns)}
    assert {"score", "low", "high", "cell"} <= columns - domains
    for column in columns - domains:
        with pytest.raises(UserError, match="domain="):
            TaskSpec("mine", column, 2, 2, 5).check()


def test_what_registers_a_task_is_checked_at_once():
    """An environment in the place of its function would first fail in a worker process."""
    spec = TaskSpec("mine", "mine", 2, 2, 5)
    for words, message in (
        (("mine", own_tasks.Reaching), "'mine' is no m3dt.TaskSpec"),
        ((spec, own_tasks.Reaching()), "must be a function, such as lambda: env"),
        ((spec, own_tasks.Reaching, 0), "policy=0 must be a function"),
    ):
        with pytest.raises(UserError) as error:
            register_task(*words)
        assert message in str(error.value)


def test_scores_follow_from_the_data_where_a_task_has_no_rule():
    spec = TaskSpec("mine", "mine", 2, 2, 5)
    with pytest.raises(UserError, match="Register the task with score"):
        spec.normalized_score(1.0, False)
    full = spec.completed(-30.0, 10.0)
    assert (full.target_return, full.return_scale, full.score) == (10, 30, (-30, 10))
    scores = [full.normalized_score(total, False) for total in (-40, -10, 12)]
    assert scores == [0, 50, 100]
    with pytest.raises(UserError, match="is not above that of random actions"):
        spec.completed(1.0, 1.0)
    with pytest.raises(UserError, match="Collect or import them again"):
        spec.completed(math.nan, 1.0)
    by_rule = replace(spec, score=lambda episode_return, success: 20 * episode_return + success)
    assert by_rule.completed(math.nan, 4.0).normalized_score(4.0, True) == 81
    with pytest.raises(RunError, match="the score of a return of 4.0 is nan"):
        replace(spec, score=lambda r, s: math.nan).normalized_score(4.0, True)
    assert all(task.is_complete and task.completed(0.0, 9.9) is task for task in TASKS.values())


def test_every_rung_of_the_ladder_plays_the_policy_with_more_or_less_noise():
    player = Player(get_task("far"), Library())
    rng = np.random.default_rng(0)
    returns = [player.play(rung, rng).episode_return for rung in player.ladder.rungs]
    assert max(returns[:-1]) < -1 and returns[-1] == pytest.approx(0, abs=1e-4)
    assert len(player.ladder.rungs) > 5 and player.ladder.rungs[0].noise.random_chance == 1


def test_processes_import_the_modules_that_register_tasks():
    assert "own_tasks" in plugin_modules() and "__main__" not in plugin_modules()


def test_a_task_that_only_the_script_itself_registers_is_told(monkeypatch):
    """Under `if __name__ == "__main__"`, which other processes do not run."""
    spec = replace(get_task("pendulum-spin"), name="pendulum-guarded")
    monkeypatch.setitem(
        registration._own, spec.name, registration.OwnTask(spec, dict, None, "__main__")
    )
    config = EvaluationConfig(episodes=1, tile=1, workers=1)
    with pytest.raises(UserError, match="'pendulum-guarded' does not know it. Register it at the"):
        evaluate_policy(RandomPolicy(), [spec.name], config, make_console())


def test_a_gymnasium_id_needs_no_registration(tmp_path):
    words = [*OWN, "tasks=['gym:Pendulum-v1']", f"data={tmp_path}", "collect.trajectories=5"]
    assert main(["collect", *words]) == 0
    store = DatasetStore.open(tmp_path, ["gym:Pendulum-v1"])
    task = store.tasks[0]
    assert task.path.name == f"{file_stem('gym:Pendulum-v1')}.hdf5"
    assert task.path.name.startswith("gym_Pendulum-v1-")
    assert (task.spec.state_dim, task.spec.horizon, task.spec.domain) == (3, 200, "gym")
    with h5py.File(task.path) as file:
        assert file.attrs["task"] == "gym:Pendulum-v1"
        np.testing.assert_allclose((file["observations"][:, :2] ** 2).sum(1), 1, atol=1e-5)


def test_a_policy_that_returns_no_action_is_named(tmp_path):
    spec = TaskSpec("clumsy", "odd", own_tasks.STATES, own_tasks.ACTIONS, 5)
    for wrong in ([0.0], [math.nan] * own_tasks.ACTIONS):
        register_task(spec, own_tasks.Reaching, policy=lambda observation, wrong=wrong: wrong)
        player = Player(spec, Library())
        with pytest.raises(UserError, match="task 'clumsy': its policy returned"):
            player.play(player.ladder.best, np.random.default_rng(0))


def test_frames_come_from_the_environment():
    with pytest.raises(UserError, match="its environment returns no frames"):
        make_env("near").render()
    env = make_env("gym:Pendulum-v1")
    assert env._env.render_mode == "rgb_array"


def test_a_film_of_an_environment_that_cannot_be_drawn_is_refused(monkeypatch):
    """Whether it returns no frames or its own code fails; nothing is played before."""
    with pytest.raises(UserError, match="--film near: .*returns no frames.*Without --film"):
        check_films(["near"], ["near", "far"])

    class Dark(own_tasks.Reaching):
        render_mode = "rgb_array"

        def render(self):
            raise OSError("no display")

    spec = TaskSpec("dark", "odd", own_tasks.STATES, own_tasks.ACTIONS, 5)
    register_task(spec, Dark)
    with pytest.raises(UserError, match="--film dark: .*OSError: no display.*Without --film"):
        check_films(["dark"], ["dark"])


def test_the_example_runs(tmp_path, monkeypatch):
    """With fewer steps; `make test-slow` runs it as it is."""
    few = ["collect.trajectories=8", "stage1.max_steps=40", "stage2.max_steps=20"]
    monkeypatch.chdir(tmp_path)
    few += ["prompt_router.max_steps=50", "evaluation.episodes=1", "evaluation.tile=1"]
    _run_example(tmp_path, *few, "collect.workers=1", "evaluation.workers=1")


@pytest.mark.slow
def test_the_example_learns(tmp_path, monkeypatch):
    """Random actions score 0 in the mean; three stages must make much more of it."""
    monkeypatch.chdir(tmp_path)
    assert _run_example(tmp_path)["score"] > 50


def _run_example(tmp_path, *overrides):
    for file in ("my_tasks.py", "own_task.yaml"):
        shutil.copy(EXAMPLE / file, tmp_path)
    for command in ("collect", "train", "evaluate"):
        more = ["--json", "scores.json"] if command == "evaluate" else []
        assert main([command, "--conf", "own_task.yaml", *overrides, *more]) == 0
    (result,) = json.loads((tmp_path / "scores.json").read_text())["models"].values()
    assert list(result["tasks"]) == ["pendulum-moon", "pendulum-mars", "pendulum-earth"]
    return result


def test_a_box_of_another_rank_is_flattened():
    register_task(
        TaskSpec("matrix", "odd", 6, 1, 5),
        own_tasks.with_spaces(Box(-1, 1, (2, 3)), Box(-1, 1, (1, 1))),
    )
    env = make_env("matrix")
    assert env.observation_space.shape == (6,) and env.action_space.shape == (1,)


def test_names_that_differ_in_one_character_have_files_of_their_own():
    assert len({file_stem(name) for name in ("gym:a/B-v0", "gym:a_B-v0", "gym_a_B-v0")}) == 3
    assert file_stem("reach-v2") == "reach-v2"


def test_bounds_of_float64_are_not_exceeded_by_rounding():
    class Bounded(own_tasks.Reaching):
        observation_space = Box(-1, 1, (2,))
        action_space = Box(-0.3, 0.1, (1,), np.float64)  # -0.3 + (0.1 + 0.3) > 0.1
        metadata = {}  # also without render modes

        def _observation(self):
            return np.zeros(2, np.float32)

        def step(self, action):
            assert self.action_space.contains(action)
            return super().step(action)

    gymnasium.register("Bounded-v0", Bounded, max_episode_steps=5)
    env = make_env("gym:Bounded-v0")
    env.reset(seed=0)
    for action in (-1.0, 1.0):
        env.step(np.array([action]))


def test_an_id_may_name_a_module_of_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "registering.py").write_text(
        "import gymnasium, own_tasks\n"
        "gymnasium.register('Here-v0', own_tasks.Reaching, max_episode_steps=5)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    assert get_task("gym:registering:Here-v0").horizon == 5
    with pytest.raises(UserError, match="no module 'absent'"):
        get_task("gym:absent:Here-v0")


def test_a_target_of_the_lowest_return_has_no_share():
    spec = TaskSpec("costly", "odd", 2, 2, 5, 0.0, 1.0, score=lambda total, success: 100 + total)
    register_task(spec, own_tasks.Reaching)
    assert shares_of_target({"costly": {"return_mean": -3.0}}) == {}
