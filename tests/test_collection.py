"""The collect command, with the real simulators."""

import shutil
from pathlib import Path

from quick_run import QUICK, TASKS, kill_after, wait_for

from m3dt.cli import main
from m3dt.data import DatasetStore
from m3dt.data.format import DatasetIndex


def test_collected_data_is_sound(data, capsys):
    assert main(["verify", str(data)]) == 0
    assert "all sound" in capsys.readouterr().out
    store = DatasetStore.open(data, TASKS)
    for task in store.tasks:
        assert len(task.episode_ends) == 6
        # Prompts are demonstrations; the other trajectories range down to random play.
        assert task.successes[-2:].all() or task.spec.domain != "metaworld"
        spread = task.episode_returns.max() - task.episode_returns.min()
        assert task.episode_returns[-2:].max() > task.episode_returns.max() - 0.3 * spread
        assert spread > 0.2 * task.spec.target_return
        assert abs(task.actions).max() <= 1
    index = DatasetIndex.read(data)
    assert index.tasks["reach-v2"].env_id == "reach-v3"
    assert [index.tasks[t].made_by["behaviour"] for t in TASKS] == ["scripted", *["learned"] * 2]


def test_collecting_again_does_nothing(data, capsys):
    before = {p: p.stat().st_mtime_ns for p in data.iterdir()}
    assert main(["collect", *QUICK, f"data={data}"]) == 0
    assert "nothing to collect" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in data.iterdir()} == before


def test_collecting_is_reproducible_and_resumes(data, tmp_path):
    """A task whose file was deleted is collected again, byte for byte."""
    copy = shutil.copytree(data, tmp_path / "copy")
    (copy / "cup-catch.hdf5").unlink()
    (copy / ".cup-catch.hdf5.01234567.tmp").write_bytes(b"half")
    assert main(["collect", *QUICK, f"data={copy}"]) == 0
    assert (copy / "cup-catch.hdf5").read_bytes() == (data / "cup-catch.hdf5").read_bytes()
    assert {p.name for p in copy.iterdir()} == {p.name for p in data.iterdir()}


def test_killed_collection_equals_uninterrupted(data, tmp_path):
    """kill -9 after the first task; the same command then produces the same bytes."""
    folder = tmp_path / "killed"
    words = ["collect", *QUICK, f"data={folder}", "collect.workers=1"]
    workers = kill_after(words, (folder / "dataset.json").exists)
    assert len(list(folder.glob("*.hdf5"))) < len(TASKS)
    assert workers
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))  # none survives
    assert main(["collect", *QUICK, f"data={folder}"]) == 0
    same = {p.name: p.read_bytes() for p in data.iterdir()}
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == same
