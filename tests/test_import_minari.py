"""Minari datasets, written and read back."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from imports import OFFICIAL_TASKS, import_from

from m3dt.cli import main
from m3dt.data import DatasetStore
from m3dt.data.format import DatasetIndex
from m3dt.tasks import get_task, make_env
from m3dt.utils.errors import UserError


def test_the_environment_is_recovered_in_a_new_process(official, tmp_path):
    pytest.importorskip("minari")
    assert main(["export", str(official), str(tmp_path)]) == 0
    code = (
        "import sys, minari\n"
        "for name in sys.argv[1:]:\n"
        "    data = minari.load_dataset(f'm3dt/{name}-v0')\n"
        "    for env in (data.recover_environment(), data.recover_environment(eval_env=True)):\n"
        "        assert data.observation_space == env.observation_space\n"
        "        assert data.action_space == env.action_space\n"
        "        print(env.spec.id, env.unwrapped.task_spec.horizon, env.reset(seed=0)[0].sum())\n"
    )
    environment = {**os.environ, "MINARI_DATASETS_PATH": str(tmp_path)}
    command = [sys.executable, "-c", code, *OFFICIAL_TASKS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    expected = []
    for task in OFFICIAL_TASKS:
        total = make_env(task).reset(seed=0)[0].sum()
        expected += [f"m3dt/{task}-v0 {get_task(task).horizon} {total!s}"] * 2
    assert done.stdout.splitlines() == expected


def test_minari_round_trip(official, tmp_path, capsys):
    pytest.importorskip("minari")
    root = tmp_path / "minari"
    for name, arguments, them in (("one", ["--tasks", "reach-v2"], "it"), ("minari", [], "them")):
        assert main(["export", str(official), str(tmp_path / name), *arguments]) == 0
        printed = "".join(capsys.readouterr().out.splitlines()).replace(" ", "")
        assert f"Toread{them},setMINARI_DATASETS_PATH={tmp_path / name}." in printed
    for task in OFFICIAL_TASKS:
        source = root / "m3dt" / f"{task}-v0"
        import_from(source, tmp_path / "data", "minari", task)
        one, other = (
            DatasetStore.open(folder, [task]).tasks[0] for folder in (official, tmp_path / "data")
        )
        index = DatasetIndex.read(tmp_path / "data")
        assert index.tasks[task].success_rate is None  # not recorded
        for name in ("observations", "actions", "rewards", "episode_ends"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert main(["export", str(official), str(root)]) == 2
    assert "holds reach-v2" in capsys.readouterr().err
    with pytest.raises(UserError, match="name it with --tasks"):
        import_from(root / "m3dt" / "reach-v2-v0", tmp_path / "other", "minari")
    with pytest.raises(UserError, match="no Minari dataset"):
        import_from(root, tmp_path / "other", "minari", "reach-v2")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_recovered_environment_replays_what_others_recorded(tmp_path, monkeypatch):
    """Through an import, which rescales Pendulum's actions from [-2, 2], and an export."""
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "theirs"))
    env, buffers = gymnasium.make("Pendulum-v1"), []
    env.action_space.seed(0)
    for number in range(3):
        actions = [env.action_space.sample() for _ in range(200)]
        steps = [(env.reset(seed=number)[0], 0.0)] + [env.step(action) for action in actions]
        buffers.append(minari.data_collector.EpisodeBuffer(
            id=number,
            observations=np.array([step[0] for step in steps]),
            actions=np.array(actions),
            rewards=[float(step[1]) for step in steps[1:]],
            terminations=[False] * 200,
            truncations=[False] * 199 + [True],
        ))  # fmt: skip
    minari.create_dataset_from_buffers("own/swing-v0", buffers, env=env)
    source = tmp_path / "theirs" / "own" / "swing-v0"
    import_from(source, tmp_path / "data", "minari", "gym:Pendulum-v1")
    assert main(["export", str(tmp_path / "data"), str(tmp_path / "ours")]) == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "ours"))
    dataset = minari.load_dataset("m3dt/gym_Pendulum-v1-18d82de3-v0")
    recovered = dataset.recover_environment()
    for seed, episode in enumerate(dataset.iterate_episodes()):
        observation, _ = recovered.reset(seed=seed)
        for t, action in enumerate(episode.actions):
            np.testing.assert_allclose(observation, episode.observations[t], atol=1e-3)
            observation, reward, _, truncated, _ = recovered.step(action)
            assert reward == pytest.approx(episode.rewards[t], abs=1e-3)
        assert truncated
