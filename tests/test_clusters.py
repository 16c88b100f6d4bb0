"""The batch scripts of docs/clusters.md, run by a shell in place of SLURM."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from quick_run import QUICK, wait_for

from m3dt.cli.parser import make_parser
from m3dt.config import find_study, load_config
from m3dt.runs.registry import Registry
from m3dt.utils.shards import parse_shard

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs/clusters.md").read_text(), re.S | re.M)
COLLECT, STUDY, TRAIN = SCRIPTS
# Of sbatch; its reference names them.
OPTIONS = {"--array", "--cpus-per-task", "--time", "--signal", "--gres"}


def submit(script, folder, index, stand_in):
    """Run a script as SLURM does: one job of its array, with a stand-in for m3dt."""
    path, m3dt = folder / "job.sh", folder / ".venv/bin/m3dt"
    path.write_text(script)
    m3dt.parent.mkdir(parents=True, exist_ok=True)
    m3dt.write_text(f"#!/bin/bash\n{stand_in}\n")
    m3dt.chmod(0o755)
    given = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, **given}
    return subprocess.Popen(["bash", path], cwd=folder, env=environment, **pipes)


def array(script):
    first, last = map(int, re.search(r"--array=(\d+)-(\d+)", script).groups())
    return range(first, last + 1)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_ask_for_a_signal_in_time(script):
    given = [word for line in re.findall(r"^#SBATCH (.*)$", script, re.M) for word in line.split()]
    assert {word.partition("=")[0] for word in given} <= OPTIONS
    assert "--signal=B:TERM@120" in given and script.startswith("#!/bin/bash\n")


@pytest.mark.parametrize("script", [COLLECT, STUDY])
def test_the_jobs_of_an_array_are_all_shards(script, tmp_path):
    shards = []
    for index in array(script):
        job = submit(script, tmp_path, index, 'echo "$@"')
        said, _ = job.communicate(timeout=60)
        assert job.returncode == 0, said
        options = make_parser().parse_args(shlex.split(said))
        shards.append(parse_shard(options.shard))
        if hasattr(options, "conf"):
            load_config(options.conf, options.overrides)
        else:
            find_study(options.file)
    assert shards == [(i, len(shards)) for i in range(len(shards))]


def test_a_signal_reaches_what_runs_in_the_place_of_the_shell(tmp_path):
    for script in SCRIPTS:
        job = submit(script, tmp_path, 0, "exec python3 -c 'import time; time.sleep(60)'")
        name = Path(f"/proc/{job.pid}/cmdline")
        wait_for(lambda name=name: b"time.sleep" in name.read_bytes())
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=60) == -signal.SIGTERM


@pytest.mark.slow
def test_a_training_goes_on_from_job_to_job(finished, data, tmp_path):
    """The first is stopped in stage 1, the second in stage 3; the third ends, the fourth rests."""
    run = tmp_path / "run"
    words = [*QUICK, f"data={data}", f"run={run}"]
    stand_in = f"exec {sys.executable} -m m3dt train {shlex.join(words)}"
    for index, stage in enumerate(("stage1", "stage3")):
        job = submit(TRAIN, tmp_path, index, stand_in)
        wait_for(lambda stage=stage: list((run / "checkpoints" / stage).glob("step*.ckpt")))
        job.send_signal(signal.SIGTERM)
        said, _ = job.communicate(timeout=120)
        assert job.returncode == 143 and "saved at step" in said, said
    said = []
    for index in (2, 3):
        job = submit(TRAIN, tmp_path, index, stand_in)
        said.append(job.communicate(timeout=300)[0])
        assert job.returncode == 0, said
    assert "resuming stage3" in said[0] and said[1].count("Nothing to do") >= 3
    hashes = [{e.key: e.hash for e in Registry(r).entries()} for r in (run, finished)]
    assert hashes[0] == hashes[1]
