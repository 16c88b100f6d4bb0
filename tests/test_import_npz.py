"""The authors' npz format: equal to their loader; a damaged source is refused as a whole."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from imports import DATA, OFFICIAL, OFFICIAL_TASKS, import_from, left_alone

from m3dt.cli import main
from m3dt.config import load_config
from m3dt.data import DatasetStore
from m3dt.data.sampler import TaskSampler
from m3dt.data.verify import verify
from m3dt.utils.errors import UserError

GOLDEN = np.load(DATA / "official_dataset" / "loader_golden.npz")


@pytest.mark.parametrize("task", OFFICIAL_TASKS)
class TestOfficialLoader:
    """Our batches and prompts equal recordings of the authors' loader."""

    def sampler(self, folder, task):
        config = load_config("mt160", ["compat=official"])
        store = DatasetStore.open(folder, [task]).tasks[0]
        return TaskSampler(store, config.loader, config.model)

    def compare(self, rows, task, name, atol):
        golden = {k.split("/")[2]: GOLDEN[k] for k in GOLDEN if k.startswith(f"{task}/{name}/")}
        length = rows.states.shape[1]
        np.testing.assert_array_equal(rows.attention_mask, golden["mask"])
        np.testing.assert_array_equal(rows.timesteps, golden["timesteps"])
        np.testing.assert_allclose(rows.actions, golden["actions"], atol=1e-7)
        np.testing.assert_allclose(
            rows.returns_to_go, golden["rtg"][:, :length], atol=1e-6, rtol=1e-6
        )
        real = golden["mask"].astype(bool)
        np.testing.assert_allclose(rows.states[real], golden["states"][real], atol=atol, rtol=1e-5)

    def test_batch(self, official, task):
        sampler = self.sampler(official, task)
        trajectory = GOLDEN[f"{task}/batch/traj_index"]
        begin = sampler.store.episode_starts[trajectory] + GOLDEN[f"{task}/batch/start"]
        rows = sampler.segments(trajectory, begin, 20, sampler.inputs)
        self.compare(rows, task, "batch", atol=1e-5)

    def test_prompts(self, official, task):
        """Each of their prompts is one of our two: one appears 14 times, the other twice."""
        sampler = self.sampler(official, task)
        for name in ("train_prompt16", "eval_prompt"):
            rewards = GOLDEN[f"{task}/{name}/rtg"][:, 0]
            ours = sampler.prompts(np.array([0, 1]), 5).returns_to_go[:, 0]
            which = np.abs(rewards - ours.T).argmin(axis=1)
            if name == "train_prompt16":
                assert sorted(np.bincount(which)) == [2, 14]
            self.compare(sampler.prompts(which, 5), task, name, atol=1e-5)


def test_import_verifies_and_refuses_a_second_time(official, capsys):
    assert verify(official)["problems"] == []
    assert main(["import", str(OFFICIAL), str(official), "--format", "npz"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "already holds reach-v2. Import into another folder, or name the tasks" in error


def broken(tmp_path, change, task="walker-walk", number=3):
    """Copy the official layout, change the arrays of one episode, and return the folder."""
    folder = tmp_path / "source"
    shutil.copytree(OFFICIAL, folder)
    path = folder / task / f"{number}.npz"
    arrays = dict(np.load(path))
    change(arrays)
    np.savez(path, **arrays)
    return folder


def set_nan(arrays):
    arrays["rewards"][4] = np.nan


def shorten(arrays):
    arrays["actions"] = arrays["actions"][:-1]


def widen(arrays):
    arrays["observations"][:, 30] = 1.0


def narrow(arrays):
    arrays["observations"] = arrays["observations"][:, :20]


def drop(arrays):
    del arrays["actions"]


def empty(arrays):
    for name in arrays:
        arrays[name] = arrays[name][:0]


def overlong(arrays):
    for name in arrays:
        arrays[name] = np.concatenate([arrays[name]] * 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_nan, "'rewards' is not finite, first at step 4"),
        (shorten, "there must be as many of each"),
        (widen, "columns that are not zero, but the task has 24"),
        (narrow, "expected \\(steps, 24\\)"),
        (drop, "'actions' is missing"),
        (empty, "one at least"),
        (overlong, "an episode of walker-walk has 500"),
    ],
)
def test_a_bad_episode_leaves_nothing_behind(tmp_path, change, message):
    """The valid reach-v2 comes first, and is not imported because walker-walk is bad."""
    source, folder = broken(tmp_path, change), tmp_path / "data"
    with pytest.raises(UserError, match=message) as caught:
        import_from(source, folder, "npz")
    assert str(Path("walker-walk") / "3.npz") in str(caught.value)
    assert left_alone(folder)
    import_from(source, folder, "npz", "reach-v2", "ant-dir-3")  # valid tasks can be imported
    assert sorted(DatasetStore.open(folder, ["ant-dir-3"]).folder.glob("*.hdf5"))


def test_adding_to_a_dataset_keeps_it_when_the_import_fails(tmp_path):
    folder = tmp_path / "data"
    import_from(OFFICIAL, folder, "npz", "reach-v2")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError):
        import_from(broken(tmp_path, set_nan), folder, "npz", "walker-walk", "ant-dir-3")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    import_from(OFFICIAL, folder, "npz", "walker-walk")
    assert verify(folder)["tasks"] == 2


def test_damaged_and_absent_sources(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(OFFICIAL, source)
    (source / "reach-v2" / "0.npz").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(UserError, match="0.npz: damaged"):
        import_from(source, tmp_path / "data", "npz")
    with pytest.raises(UserError, match="nothing here"):
        import_from(tmp_path / "none", tmp_path / "data", "npz")
    with pytest.raises(UserError, match="holds no walker-run; it has"):
        import_from(OFFICIAL, tmp_path / "data", "npz", "walker-run")


def test_incomplete_sources_are_refused(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(OFFICIAL, source)
    (source / "walker-walk" / "2.npz").unlink()
    with pytest.raises(UserError, match="2.npz is missing"):
        import_from(source, tmp_path / "data", "npz")
    (tmp_path / "ant_dir-45-expert.pkl").write_bytes(pickle.dumps([]))
    with pytest.raises(UserError, match="no file such as"):
        import_from(tmp_path, tmp_path / "data", "promptdt")


def test_what_a_killed_import_left_is_cleaned(tmp_path):
    folder = tmp_path / "data"
    (folder / ".staging.01234567.tmp").mkdir(parents=True)
    (folder / ".notes.tmp").write_text("a user's own file")
    import_from(OFFICIAL, folder, "npz", "reach-v2")
    assert sorted(p.name for p in folder.iterdir()) == [
        ".lock", ".notes.tmp", "dataset.json", "reach-v2.hdf5"
    ]  # fmt: skip


def test_commands_formats_are_the_importers(capsys):
    assert main(["import", "--help"]) == 0
    from m3dt.data.importers import FORMATS

    assert "{" + ",".join(FORMATS) + "}" in capsys.readouterr().out


def test_two_writers_do_not_meet(tmp_path, capsys):
    """While one process writes to a dataset, others are refused and change nothing."""
    folder = tmp_path / "data"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    commands = (
        ["import", str(OFFICIAL), str(folder), "--format", "npz"],
        ["collect", "tasks=[reach-v2]", "collect.trajectories=4", f"data={folder}"],
    )
    for command in commands:
        assert main(command) == 2
        assert "another m3dt is writing here" in capsys.readouterr().err
    assert left_alone(folder)
    holder.kill()  # the lock ends with its process
    holder.wait()
    assert main(commands[0]) == 0


HOLD = """
import sys
from pathlib import Path
from m3dt.utils.files import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
