"""The place of a process among a training's: from the settings, whatever the environment says."""

import os
import subprocess
import sys

import pytest
from filelock import FileLock
from lightning.fabric.utilities.rank_zero import rank_zero_only
from quick_run import QUICK, call

from m3dt.config import load_config
from m3dt.runs.registry import Registry
from m3dt.training import ranks
from m3dt.training.ranks import Place, place_of, wait_for
from m3dt.utils.errors import RunError, UserError

SALLOC = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
          "SLURM_JOB_ID": "7"}  # fmt: skip
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "0"}  # fmt: skip
CHILD = {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"}
VARIABLES = {*SALLOC, *TORCHRUN, *CHILD, "JSM_NAMESPACE_RANK"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets variables; the rank is what Lightning reads on its import."""

    def put(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        found = [variables[k] for k in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if k in variables]
        monkeypatch.setattr(rank_zero_only, "rank", int(found[0] or 0) if found else 0)

    return put


def config(*overrides):
    return load_config("quickstart", ["trainer.accelerator=cpu", *overrides])


@pytest.mark.parametrize(
    ("variables", "overrides", "expected"),
    [
        ({}, [], Place(0, 1, False)),
        (SALLOC, [], Place(0, 1, False)),
        ({**SALLOC, "SLURM_PROCID": "1"}, [], Place(0, 1, False)),
        ({**SALLOC, "SLURM_NTASKS": "1"}, [], Place(0, 1, True)),
        (TORCHRUN, [], Place(0, 1, False)),
        (TORCHRUN, ["trainer.devices=auto"], Place(0, 1, False)),
        ({}, ["trainer.devices=2"], Place(0, 2, False)),
        ({**SALLOC, "SLURM_NTASKS": "1"}, ["trainer.devices=2"], Place(0, 2, False)),
        (SALLOC, ["trainer.devices=2"], Place(0, 2, True)),
        ({**SALLOC, "SLURM_PROCID": "1"}, ["trainer.devices=[0,1]"], Place(1, 2, True)),
        ({**SALLOC, "SLURM_PROCID": "1"}, ["trainer.num_nodes=2"], Place(1, 2, True)),
        (TORCHRUN, ["trainer.devices=2"], Place(1, 2, True)),
        (CHILD, ["trainer.devices=2"], Place(1, 2, False)),
        ({**CHILD, **SALLOC, "SLURM_NTASKS": "1"}, ["trainer.devices=2"], Place(1, 2, False)),
        (
            {"WORLD_SIZE": "4", "LOCAL_RANK": "1", "NODE_RANK": "1"},
            ["trainer.devices=2", "trainer.num_nodes=2"],
            Place(3, 4, False),
        ),
    ],
)
def test_the_settings_decide(environment, variables, overrides, expected):
    environment(variables)
    assert place_of(config(*overrides)) == expected


@pytest.mark.parametrize(
    ("variables", "overrides", "told"),
    [
        ({**SALLOC, "SLURM_NTASKS": "4"}, ["trainer.devices=2"], "SLURM_NTASKS is 4"),
        ({**TORCHRUN, "WORLD_SIZE": "1"}, ["trainer.devices=2"], "WORLD_SIZE is 1"),
        ({**TORCHRUN, "RANK": "2"}, ["trainer.devices=2"], "WORLD_SIZE is 2"),
        ({**TORCHRUN, "RANK": ""}, ["trainer.devices=2"], "RANK is "),
        ({"SLURM_NTASKS": "2"}, ["trainer.devices=2"], "SLURM_PROCID is not set"),
        ({"LOCAL_RANK": "0"}, ["trainer.devices=2"], "LOCAL_RANK is 0"),
        ({}, ["trainer.num_nodes=2"], "no launcher started this process"),
    ],
)
def test_contradictions_are_refused(environment, variables, overrides, told):
    environment(variables)
    with pytest.raises(UserError, match=told) as error:
        place_of(config(*overrides))
    assert str(error.value).startswith(f"override '{overrides[0]}': {overrides[0]}")


@pytest.mark.parametrize(
    "variables", [SALLOC, {**SALLOC, "SLURM_PROCID": "1"}, TORCHRUN, {"LOCAL_RANK": "1"}]
)
def test_what_launchers_left_behind_changes_nothing(data, tmp_path, environment, variables, capsys):
    """What is said to be registered is there; nobody waits for a first rank."""
    environment(variables)
    assert call("stage1", tmp_path / "run", data, "stage1.max_steps=2") == 0
    assert "backbone, step 2: registered." in capsys.readouterr().out
    assert [entry.key for entry in Registry(tmp_path / "run").entries()] == ["backbone/main"]


def test_a_plotting_back_end_that_is_none_ends_no_command(data, tmp_path):
    """Libraries import matplotlib, which refuses it."""
    words = [*QUICK, f"data={data}", f"run={tmp_path / 'run'}", "stage1.max_steps=2"]
    ended = subprocess.run(
        [sys.executable, "-m", "m3dt", "stage1", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "MPLBACKEND": "nonsense"},
    )
    assert ended.returncode == 0, ended.stderr
    assert "backbone, step 2: registered." in ended.stdout


def test_a_first_rank_that_is_not_there_is_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(ranks, "_PATIENCE", 0.0)
    monkeypatch.setattr(ranks.time, "sleep", lambda seconds: None)
    wait_for(lambda: True, tmp_path)
    with pytest.raises(RunError, match="not the first rank"):
        wait_for(lambda: False, tmp_path)
    tries = iter([False] * 5 + [True])
    with FileLock(tmp_path / ranks._LOCK):
        wait_for(lambda: next(tries), tmp_path)
    assert next(tries, None) is None
