"""Minari datasets, written and read back."""

import os
import subprocess
import sys

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
    assert main(["export", str(official), str(root)]) == 0
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
