"""Full disks: refused before work begins; if a disk fills up later, nothing is lost."""

import os
import shutil
import subprocess
import sys

import pytest
from quick_run import QUICK

from m3dt.runs.registry import Registry
from m3dt.utils.files import sha256

# A disk of size $1, visible only to this script and its child processes.
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$DISK"'
POSSIBLE = (
    shutil.which("unshare")
    and not subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True
    ).returncode
)
pytestmark = pytest.mark.skipif(not POSSIBLE, reason="needs unprivileged mounts (Linux)")


def on_disk(script, size, tmp_path, *words):
    """Run a bash script with a small disk at $DISK; files that it copies to $KEPT are kept."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    places = {"DISK": str(disk), "KEPT": str(kept), "M3DT": f"{sys.executable} -m m3dt"}
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c"]
    result = subprocess.run(
        [*command, f"{MOUNT}; shift; {script}", "bash", size, *words],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "Traceback" not in result.stderr, result.stderr[-3000:]
    return result, kept


def test_a_full_disk_is_refused_before_work_begins(finished, data, tmp_path):
    script = """
        $M3DT stage1 "$@" run=$DISK/run; echo code $?
        $M3DT collect "$@" data=$DISK/data; echo code $?
        ls -R $DISK | grep -c "ckpt\\|hdf5"
    """
    words = (*QUICK, f"data={data}", "model.n_embd=64")
    result, _ = on_disk(script, "256k", tmp_path, *words)
    assert result.stdout.split("\n")[-4:-1] == ["code 2", "code 2", "0"], result.stdout
    training, collecting = result.stderr.strip().split("\n")
    assert "MiB are free, but checkpoints take 3 times" in training
    assert "run=FOLDER on another disk" in training
    assert "MiB are free, but 3 tasks take up to" in collecting
    assert "data=FOLDER on another disk" in collecting


@pytest.mark.faults
def test_a_disk_that_is_read_only_is_told(finished, data, tmp_path):
    """For every command that writes, into new folders and into an existing run and dataset."""
    script = """
        cp -r $FINISHED $DISK/run && cp -r $DATA $DISK/data && rm -r $DISK/run/registry/router
        rm $(ls $DISK/data/*.hdf5 | head -1)
        mount -o remount,ro "$DISK"
        $M3DT stage1 "$@" run=$DISK/other; echo code $?
        $M3DT stage3 "$@" run=$DISK/run; echo code $?
        $M3DT collect "$@" data=$DISK/other; echo code $?
        $M3DT collect "$@" data=$DISK/data; echo code $?
        $M3DT evaluate "$@" run=$DISK/run --models random evaluation.episodes=1; echo code $?
    """
    script = script.replace("$FINISHED", str(finished)).replace("$DATA", str(data))
    words = (*QUICK, f"data={data}")
    result, _ = on_disk(script, "64m", tmp_path, *words)
    codes = [line for line in result.stdout.split("\n") if line.startswith("code")]
    assert codes == ["code 2"] * 5, result.stdout + result.stderr
    messages = result.stderr.strip().split("\n")
    assert len(messages) == 5, result.stderr
    assert all(line.startswith("m3dt: ") for line in messages)
    assert all("Read-only file system" in line or "cannot be written" in line for line in messages)


def test_a_disk_that_fills_up_in_training_loses_nothing(finished, data, tmp_path):
    """It fills up after the first checkpoint; with free space, the run ends in the same bits."""
    script = """
        $M3DT stage1 "$@" run=$DISK/run & pid=$!
        until ls $DISK/run/checkpoints/stage1/step*.ckpt; do sleep 0.01; done 2> /dev/null
        cat /dev/zero > $DISK/filler
        wait $pid; echo code $?
        rm $DISK/filler
        $M3DT stage1 "$@" run=$DISK/run; echo code $?
        find $DISK/run -name ".*.tmp" | wc -l
        cp -r $DISK/run $KEPT
    """
    result, kept = on_disk(script, "4m", tmp_path, *QUICK, f"data={data}")
    codes = [line for line in result.stdout.split("\n") if line.startswith("code")]
    assert codes == ["code 2", "code 0"], result.stdout + result.stderr
    message = result.stderr.split("\n")[-2]  # after cat's own message
    assert message.startswith("m3dt: ") and "free space, and the same command goes on" in message
    assert "resuming stage1 at step" in result.stdout
    backbones = [Registry(folder).get("backbone", "main") for folder in (kept / "run", finished)]
    assert backbones[0].hash == backbones[1].hash


@pytest.mark.faults
def test_a_disk_that_fills_up_in_collection_loses_nothing(data, tmp_path):
    script = """
        $M3DT collect "$@" data=$DISK/data collect.workers=1 & pid=$!
        until ls $DISK/data/*.hdf5; do sleep 0.01; done 2> /dev/null
        cat /dev/zero > $DISK/filler
        wait $pid; echo code $?
        rm $DISK/filler
        $M3DT collect "$@" data=$DISK/data; echo code $?
        cp -r $DISK/data $KEPT
    """
    result, kept = on_disk(script, "4m", tmp_path, *QUICK)
    codes = [line for line in result.stdout.split("\n") if line.startswith("code")]
    assert codes == ["code 2", "code 0"], result.stdout + result.stderr
    assert "No space left on device" in result.stderr
    names = sorted(path.name for path in data.glob("*.hdf5"))
    assert names == sorted(path.name for path in (kept / "data").glob("*.hdf5"))
    for name in names:
        assert sha256(kept / "data" / name) == sha256(data / name)
