"""Datasets that are well formed but wrong: refused, or found by verify, by name."""

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import write_dataset
from quick_run import call

from m3dt.config import LoaderConfig, ModelConfig
from m3dt.data import DatasetStore, M3DTDataModule, TaskStream
from m3dt.data.format import DatasetIndex, write_task
from m3dt.data.sampler import TaskSampler
from m3dt.data.verify import verify
from m3dt.tasks import Trajectory, get_task
from m3dt.utils.errors import RunError, UserError
from m3dt.utils.files import sha256

MODEL = ModelConfig(n_layer=1, n_head=1, n_embd=8, context_length=6, prompt_length=4)


def edit(name, change):
    """Return a change of one array of a task's file."""

    def apply(file):
        array = file[name][()]
        array = change(array)
        del file[name]
        file[name] = array

    return apply


def put(name, place, value):
    def apply(file):
        if name in file.attrs:
            array = file.attrs[name]
            array[place] = value
            file.attrs[name] = array
        else:
            file[name][place] = value

    return apply


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def another_place(kind):
    """Return a change that moves the actions out of the file."""

    def apply(file):
        actions = file["actions"][()]
        path = Path(file.filename)
        with h5py.File(path.with_name("other.h5"), "w") as other:
            other["padding"] = np.zeros(1000)
            other["actions"] = actions
        actions.tofile(path.with_name("actions.raw"))
        del file["actions"]
        if kind == "external link":
            file["actions"] = h5py.ExternalLink("other.h5", "actions")
        elif kind == "soft link":
            file["spare"] = actions
            file["actions"] = h5py.SoftLink("/spare")
        elif kind == "virtual dataset":
            layout = h5py.VirtualLayout(actions.shape, "f4")
            layout[:] = h5py.VirtualSource("other.h5", "actions", actions.shape)
            file.create_virtual_dataset("actions", layout)
        else:
            stored = [("actions.raw", 0, actions.nbytes)]
            file.create_dataset("actions", actions.shape, "f4", external=stored)

    return apply


# Changes to a task's file that leave a valid file of HDF5, and what is said when it is opened.
WRONG_AT_OPENING = {
    "mean NaN": (put("state_mean", 4, np.nan), "'state_mean' is not finite, first in dimension 4"),
    "mean absurd": (put("state_mean", 4, 3e38), "'state_mean' holds 3e"),
    "mean short": (attribute("state_mean", np.zeros(3)), "'state_mean' must be 39"),
    "mean text": (attribute("state_mean", "zero"), "'state_mean' must be 39"),
    "std negative": (put("state_std", 2, -0.1), "'state_std' is negative, first in dimension 2"),
    "std infinite": (put("state_std", 2, np.inf), "'state_std' is not finite"),
    "no std": (lambda file: file.attrs.pop("state_std"), "'state_std' must be 39"),
    "other task": (attribute("task", "push-v2"), "'task' is 'push-v2', but must be 'reach-v2'"),
    "other environment": (attribute("env_id", "push-v3"), "'env_id' is 'push-v3'"),
    "other schema": (attribute("schema_version", 2), "'schema_version' is"),
    "task of odd type": (attribute("task", np.zeros(3)), "'task' is array"),
    "prompt reward": (
        put("rewards", -1, np.nan),
        "'rewards' is not finite, first in trajectory 5 at step 29",
    ),
    "prompt action": (
        put("actions", (-2, 0), np.inf),
        "'actions' is not finite, first in trajectory 5 at step 28",
    ),
    "prompt state": (
        put("observations", (-40, 0), 3e38),
        "'observations' holds 3e+38, beyond 1e+10, first in trajectory 4",
    ),
    "return NaN": (
        put("episode_returns", 1, np.nan),
        "'episode_returns' is not finite, first in trajectory 1",
    ),
    "returns short": (
        edit("episode_returns", lambda a: a[:-1]),
        "'episode_returns' has 5 values for 6",
    ),
    "returns rank": (
        edit("episode_returns", lambda a: a[:, None]),
        "'episode_returns' must be float32 of rank 1",
    ),
    "returns text": (
        edit("episode_returns", lambda a: a.astype("S9")),
        "'episode_returns' must be float32",
    ),
    "ends float": (edit("episode_ends", lambda a: a.astype(float)), "'episode_ends' must be int64"),
    "ends rank": (
        edit("episode_ends", lambda a: a[None]),
        "'episode_ends' must be int64 of rank 1",
    ),
    "ends scalar": (
        edit("episode_ends", lambda a: a[-1]),
        "'episode_ends' must be int64 of rank 1",
    ),
    "ends wrap": (
        put("episode_ends", slice(2), (2**62, -(2**62))),
        "'episode_ends' does not divide",
    ),
    "successes text": (edit("successes", lambda a: a.astype("S1")), "'successes' must be uint8"),
    "successes bool": (edit("successes", lambda a: a.astype(float)), "'successes' must be uint8"),
    "successes 7": (put("successes", 0, 7), "'successes' holds 7, not 0 or 1"),
}


@pytest.mark.parametrize("name", WRONG_AT_OPENING)
def test_wrong_files_are_refused_when_they_are_opened(tmp_path, name):
    """Although they are whole, of the right widths, and even if their checksums are right."""
    change, message = WRONG_AT_OPENING[name]
    folder = write_dataset(tmp_path, ["reach-v2"])
    change_file(folder, "reach-v2", change)
    with pytest.raises(UserError) as caught:
        DatasetStore.open(folder, ["reach-v2"])
    assert message in str(caught.value)
    (problem,) = verify(folder)["problems"]
    assert message in problem


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("external link", "'actions' is an external link"),
        ("soft link", "'actions' is a soft link"),
        ("virtual dataset", "'actions' is a virtual dataset"),
        ("external storage", "'actions' is stored in another file"),
    ],
)
def test_bytes_that_lie_elsewhere_are_refused(tmp_path, kind, message):
    folder = write_dataset(tmp_path, ["reach-v2"])
    change_file(folder, "reach-v2", another_place(kind))
    with pytest.raises(UserError, match=message):
        DatasetStore.open(folder, ["reach-v2"])
    (problem,) = verify(folder)["problems"]
    assert message in problem


def test_groups_that_contain_each_other_are_read_once(tmp_path):
    folder = write_dataset(tmp_path, ["reach-v2"])

    def nest(file):
        file.create_group("a/b")
        file["a/b/again"] = file["a"]
        file["a/root"] = file["/"]

    change_file(folder, "reach-v2", nest)
    assert verify(folder)["problems"] == []


def change_file(folder, task, change):
    """Change a task's file, and give the index its new checksum."""
    path = folder / f"{task}.hdf5"
    with h5py.File(path, "r+") as file:
        change(file)
    index = DatasetIndex.read(folder)
    index.add(task, replace(index.tasks[task], sha256=sha256(path)))
    index.write(folder)


# Changes that only reading all of the data can find, and the words of `verify`.
WRONG_IN_DEPTH = {
    "mean off": (put("state_mean", 5, 100.0), "'state_mean' is not that of the training"),
    "std off": (put("state_std", 5, 2.5), "'state_std' is not that of the training"),
    "action": (
        put("actions", (3, 1), 15),
        "'actions' holds 15, beyond 1, first in trajectory 0 at step 3",
    ),
    "state": (
        put("observations", (35, 1), np.inf),
        "'observations' is not finite, first in trajectory 1 at step 5",
    ),
    "reward": (
        put("rewards", 35, np.nan),
        "'rewards' is not finite, first in trajectory 1 at step 5",
    ),
    "return": (
        put("episode_returns", 2, 7.0),
        "'episode_returns' are not the sums of 'rewards', first in trajectory 2: 7",
    ),
    "success": (edit("successes", lambda a: 1 - a), "success_rate is"),
}


@pytest.mark.parametrize("name", WRONG_IN_DEPTH)
def test_verify_recomputes_what_it_can(tmp_path, name):
    change, message = WRONG_IN_DEPTH[name]
    folder = write_dataset(tmp_path, ["reach-v2", "push-v2"])
    change_file(folder, "reach-v2", change)
    problems = verify(folder)["problems"]
    assert any(message in problem for problem in problems), problems
    assert not any("push-v2" in problem for problem in problems)


def test_verify_compares_lengths_with_the_horizon(tmp_path):
    folder = write_dataset(tmp_path, ["ant-dir-3"], lengths=(2400, 200, 30, 12))
    (problem,) = verify(folder)["problems"]
    assert "1 trajectory is longer than 200 steps" in problem and "has 2400" in problem


def test_a_file_of_another_task_is_found(tmp_path):
    """By the name within, or in files without one by its returns and trajectories."""
    folder = write_dataset(tmp_path, ["cheetah-vel-1", "cheetah-vel-7"])
    shutil.copy(folder / "cheetah-vel-7.hdf5", folder / "cheetah-vel-1.hdf5")
    change_file(folder, "cheetah-vel-1", lambda file: None)
    with pytest.raises(UserError, match="'task' is 'cheetah-vel-7', but must be 'cheetah-vel-1'"):
        DatasetStore.open(folder, ["cheetah-vel-1"])
    change_file(folder, "cheetah-vel-1", lambda file: file.attrs.pop("task"))
    with pytest.raises(UserError, match="return_quartiles is .* but the index says"):
        DatasetStore.open(folder, ["cheetah-vel-1"])
    problems = verify(folder)["problems"]
    assert any("6 trajectories are also those of cheetah-vel-1" in p for p in problems)


def test_repeated_trajectories_and_unusual_returns_are_noted(tmp_path):
    folder = write_dataset(tmp_path, ["walker-walk"])
    report = verify(folder)
    assert report["problems"] == []
    (note,) = report["notes"]  # the fixture's rewards are noise
    assert "the best return is" in note and "evaluation asks for 1000" in note
    spec, rng = get_task("walker-walk"), np.random.default_rng(0)
    states, actions = rng.normal(size=(500, 24)), rng.uniform(-1, 1, (500, 6))
    one = Trajectory(states, actions, np.full(500, 1.9), False)
    index = DatasetIndex.read(folder)
    index.add("walker-walk", write_task(folder, spec, [one] * 4, {"seed": 0}))
    index.write(folder)
    (note,) = verify(folder)["notes"]
    assert "3 trajectories repeat others" in note


def test_values_that_are_not_finite_end_training_by_name(tmp_path):
    """Where they are first read: in a batch, or when the dataset is loaded to a device."""
    folder = write_dataset(tmp_path, ["reach-v2"])
    with h5py.File(folder / "reach-v2.hdf5", "r+") as file:
        file["rewards"][44] = np.nan
    message = "reach-v2.hdf5: 'rewards' is not finite, first in trajectory 2 at step 2"
    store = DatasetStore.open(folder, ["reach-v2"])
    data = M3DTDataModule(store, LoaderConfig(batch_size=64), MODEL, 0, 1, TaskStream(0, (0,)))
    with pytest.raises(UserError, match=message):
        for step in range(20):
            data.batch(step)
    with pytest.raises(UserError, match=message):
        TaskSampler(store.tasks[0], LoaderConfig(), ModelConfig()).whole()


def test_a_worker_that_reads_them_says_the_same(data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "data")
    with h5py.File(folder / "reach-v2.hdf5", "r+") as file:
        file["rewards"][:1000] = np.nan
    assert call("stage1", tmp_path / "run", folder, "loader.num_workers=1") == 2
    message = capsys.readouterr().err
    assert "reach-v2.hdf5: 'rewards' is not finite, first in trajectory 0 at step 0" in message
    assert "Traceback" not in message and "DataLoader" not in message


def test_trajectories_that_are_not_finite_are_not_written(tmp_path):
    spec = get_task("walker-walk")
    arrays = np.zeros((5, 24)), np.zeros((5, 6)), np.array([0, 0, np.inf, 0, 0])
    with pytest.raises(RunError, match="'rewards' is not finite.*trajectory 0 at step 2"):
        write_task(tmp_path, spec, [Trajectory(*arrays, None)] * 3, {})
    assert not list(tmp_path.iterdir())
