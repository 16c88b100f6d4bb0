"""A run of seconds on three domains, and processes that are killed in the middle of it."""

import os
import signal
import subprocess
import time
from pathlib import Path

from conftest import TINY
from started import Command

from m3dt.cli import main

TASKS = ("reach-v2", "cup-catch", "ant-dir-6")
# For evaluations: episodes of reach-v2 take three quarters of the time of all.
ONE_TASK = "tasks=[ant-dir-6]"
TWO_TASKS = "tasks=[cup-catch,ant-dir-6]"
STEPS = 120
QUICK = [
    *TINY,
    f"tasks=[{','.join(TASKS)}]",
    "model.dropout=0.1",
    "loader.sampling=one_task",
    f"stage1.max_steps={STEPS}",
    f"stage2.max_steps={STEPS}",
    f"stage3.max_steps={STEPS}",
    *(f"stage{i}.checkpoint_every=10" for i in (1, 2, 3)),
    f"prompt_router.max_steps={STEPS}",
    "prompt_router.batch_size=24",
    "prompt_router.learning_rate=1e-2",
    "prompt_router.checkpoint_every=10",
    "callbacks.conflict.every_n_steps=20",
    "callbacks.conflict.min_steps=1000",
    f"callbacks.router_usage.every_n_steps={STEPS}",
    "grouping.num_batches=2",
    "collect.trajectories=6",
    "evaluation.episodes=1",
    "evaluation.tile=1",
    "evaluation.workers=1",
]


def call(command, run, data, *extra):
    return main([command, *QUICK, f"data={data}", f"run={run}", *extra])


def helpers_found():
    """Return an environment in which processes find the modules of this folder."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def listening():
    """Take the signals that a shell ignores in the background or under `nohup`.

    Processes call it before they start: it is their `preexec_fn`.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def signal_at(step, number, **more):
    """Return the override by which a training gets a signal."""
    given = {"class": "moments.SignalAt", "step": step, "number": int(number), **more}
    return "callbacks.signal={" + ", ".join(f"{k}: {v}" for k, v in given.items()) + "}"


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_after(words, condition):
    """Start a command, wait for a condition, and kill it with SIGKILL before it ends.

    It is stopped first, so that it cannot end while its children are looked for. Returns their
    process numbers.
    """
    process = Command(words)
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.output
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    pids = ["pgrep", "-P", str(process.pid)]
    children = subprocess.run(pids, capture_output=True, text=True).stdout.split()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return children
