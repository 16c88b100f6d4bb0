"""Signals to a training: it saves, ends with the code of the signal and says so."""

import multiprocessing
import os
import signal
import subprocess
import sys
from importlib import import_module

import pytest
from moments import MOMENTS
from quick_run import QUICK, call, signal_at
from started import ended

from m3dt import training
from m3dt.cli import main
from m3dt.config import load_config
from m3dt.runs.registry import Registry
from m3dt.utils.console import make_console
from m3dt.utils.ending_signals import ENDING


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
    ids=["SIGTERM", "Ctrl-C", "SIGHUP", "SIGUSR1"],
)
def test_a_signal_saves_and_ends(finished, data, tmp_path, number, code):
    """At step 33, checkpoints being rare; the next run ends in the same bits.

    Terminals and schedulers send it to workers that load data, too. At SIGUSR1 in a job of SLURM,
    Lightning would save in the middle of a step.
    """
    job = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "own", "SLURM_PROCID": "0",
           "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip
    run = tmp_path / "run"
    rare = "stage1.checkpoint_every=1000000"
    words = [*QUICK, f"data={data}", f"run={run}", rare, "loader.num_workers=2"]
    variables = job if number == signal.SIGUSR1 else {}
    command = ended(["stage1", *words, signal_at(33, number, group=True)], variables, group=True)
    assert command.returncode == code, command.output
    assert [p.name for p in (run / "checkpoints/stage1").glob("*.ckpt")] == ["step33.ckpt"]
    assert f"saved at step 33 on {number.name}" in command.output
    assert "Traceback" not in command.output
    assert call("stage1", run, data, rare) == 0
    backbones = [Registry(folder).get("backbone", "main") for folder in (run, finished)]
    assert backbones[0].hash == backbones[1].hash


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["SIGTERM", "SIGHUP"]
)
def test_a_signal_before_the_first_step(data, tmp_path, moments, number, code):
    """Lightning takes any exit for Ctrl-C; the code is that of the signal all the same."""
    moments["train start", 0] = lambda trainer: os.kill(os.getpid(), number)
    before = signal.signal(number, signal.SIG_DFL)  # else ignored under `nohup`
    try:
        with pytest.raises(SystemExit) as leaving:
            call("stage1", tmp_path, data, MOMENTS, "loader.num_workers=2")
    finally:
        signal.signal(number, before)
    assert leaving.value.code == code
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
)
def test_a_signal_that_becomes_another_error_keeps_its_code(monkeypatch, capsys, number, code):
    """As in the middle of an import, whose module is then half there."""

    def importing(arguments):
        try:
            os.kill(os.getpid(), number)
        except BaseException:
            raise RecursionError("maximum recursion depth exceeded") from None

    monkeypatch.setattr(import_module("m3dt.cli.main"), "_run", importing)
    before = {n: signal.getsignal(n) for n in ENDING}
    try:
        signal.signal(number, signal.SIG_DFL)
        assert main([]) == code
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert capsys.readouterr().err.startswith("m3dt: interrupted;")


def test_an_ignored_signal_stays_ignored(data, tmp_path, moments):
    """Under `nohup`, a terminal that closes does not end the training."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        moments["start", 1] = lambda trainer: os.kill(os.getpid(), signal.SIGHUP)
        assert call("stage1", tmp_path, data, MOMENTS, "stage1.max_steps=2") == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_come_back_to_their_owners(data, tmp_path):
    """What runs next in the process inherits neither our handlers nor lightning's."""
    config = load_config("quickstart", [*QUICK, f"data={data}", f"run={tmp_path}"])
    config.stage1.max_steps = 2
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    training.train(config, "stage1", make_console())
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_during_the_exit_changes_nothing(number):
    script = (
        "import atexit, os, sys; from m3dt.cli import run; sys.argv = ['m3dt', 'tasks']\n"
        f"atexit.register(os.kill, os.getpid(), {number}); run()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "walker-walk" in done.stdout and not done.stderr
