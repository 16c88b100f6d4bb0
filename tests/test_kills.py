"""Kill -9 at random moments, again and again: nothing differs at the end."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from quick_run import QUICK
from test_logs import records

from m3dt.runs.registry import Registry
from m3dt.utils.files import sha256

KILLS = int(os.environ.get("M3DT_KILLS", 100))  # of training, and as many of collection
PARTS = 4  # of as many kills each, for several workers of pytest

pytestmark = pytest.mark.faults


@pytest.fixture(params=range(PARTS))
def part(request):
    return request.param


def survive(command, rng, reset, speaks):
    """Run a command until it has been killed often enough and then once to its end.

    Args:
        command: What is run, and killed at random moments.
        rng: Chooses the moments.
        reset: Called where the command had finished before its time to die.
        speaks: Whether its first line tells that imports are over and work begins; only then does
            its time to die begin.
    """
    longest, done = 10.0, 0
    while done < KILLS // PARTS:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if speaks:
            process.stdout.readline()
        time.sleep(rng.uniform(0.0 if speaks else 2.0, longest))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            continue
        output = process.communicate()[0].decode()
        assert process.returncode == 0, output[-3000:]
        longest = max(longest * 0.8, 3.0)
        reset()
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]


def test_training_survives_random_kills(finished, data, tmp_path, part):
    """All three stages by one command; what a kill hits is chance."""
    run, rng = tmp_path / "run", random.Random(part)
    command = [sys.executable, "-m", "m3dt", "train", *QUICK, f"data={data}", f"run={run}"]
    survive(command, rng, lambda: shutil.rmtree(run), speaks=True)
    hashes = [{e.key: e.hash for e in Registry(r).entries()} for r in (run, finished)]
    assert hashes[0] == hashes[1]
    for stage in ("stage1", "stage2", "stage3"):
        assert records(run / "logs" / stage) == records(finished / "logs" / stage)


def test_collection_survives_random_kills(data, tmp_path, part):
    folder, rng = tmp_path / "data", random.Random(PARTS + part)
    command = [sys.executable, "-m", "m3dt", "collect", *QUICK, f"data={folder}"]
    survive(command, rng, lambda: shutil.rmtree(folder), speaks=False)
    names = sorted(path.name for path in data.glob("*.hdf5"))
    assert names == sorted(path.name for path in folder.glob("*.hdf5"))
    assert [sha256(folder / name) for name in names] == [sha256(data / name) for name in names]
    assert not [path for path in folder.rglob(".*.tmp")]
