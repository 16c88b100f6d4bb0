"""What lies in a dataset's folder: links, other files in place of data, lost files."""

import errno
import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from conftest import write_dataset
from imports import OFFICIAL
from rich.console import Console

from m3dt.behaviour import Library
from m3dt.cli import main
from m3dt.config import CollectConfig
from m3dt.data import DatasetStore
from m3dt.data.collect import collect
from m3dt.data.format import DatasetIndex
from m3dt.data.remedies import collecting_like, made_again
from m3dt.data.store import TaskStore
from m3dt.data.verify import verify
from m3dt.tasks import TaskSpec, get_task, registration
from m3dt.tasks.registration import OwnTask
from m3dt.utils.errors import UserError


def fifo(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def outside(path):
    path.rename(path.parent.parent / "moved")
    path.symlink_to(path.parent.parent / "moved")


def circle(path):
    path.unlink()
    path.symlink_to(path)


def device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def folder_in_place(path):
    path.unlink()
    path.mkdir()


def verified(folder):
    problems = verify(folder)["problems"]
    if problems:
        raise UserError(problems[0])


@pytest.mark.parametrize("name", ["dataset.json", "reach-v2.hdf5"])
@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (fifo, "is a FIFO, not a regular file"),
        (device, "is a device, not a regular file"),
        (folder_in_place, "is a folder, not a regular file"),
        (outside, "lies outside"),
        (circle, "cannot be read"),
    ],
)
def test_only_regular_files_in_the_folder_are_opened(tmp_path, name, replaced, message):
    folder = write_dataset(tmp_path / "data", ["reach-v2"])
    replaced(folder / name)
    for use in (lambda: DatasetStore.open(folder, ["reach-v2"]), lambda: verified(folder)):
        with pytest.raises(UserError, match=message) as caught:
            use()
        assert "Delete" not in str(caught.value)


@pytest.mark.parametrize("missing", [True, False], ids=["missing", "damaged"])
def test_the_remedy_of_a_lost_file_makes_it_again(data, tmp_path, missing):
    """The same bytes, although other tasks and other numbers are the default."""
    folder = shutil.copytree(data, tmp_path / "data")
    lost = folder / "ant-dir-6.hdf5"
    lost.unlink() if missing else lost.write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        DatasetStore.open(folder, ["ant-dir-6", "reach-v2"])
    (problem,) = verify(folder)["problems"]
    assert str(caught.value) == problem
    (remedy,) = re.findall("`m3dt (collect .*)`", problem)
    lost.unlink(missing_ok=True)
    assert main(shlex.split(remedy)) == 0
    assert lost.read_bytes() == (data / "ant-dir-6.hdf5").read_bytes()
    assert (folder / "dataset.json").read_bytes() == (data / "dataset.json").read_bytes()


def test_the_remedy_names_other_policies_than_the_package(tmp_path):
    """With the package's, the same command would make other data."""
    task = "cheetah-vel-5"
    folder = write_dataset(tmp_path / "data", [task])
    (folder / f"{task}.hdf5").unlink()
    path = folder / "dataset.json"
    index = json.loads(path.read_text())
    for policies, named in ((Library().checksum(get_task(task)), False), ("f" * 64, True)):
        made_by = {"seed": 3, "behaviour": "learned", "policies": policies, "ladder": []}
        index["tasks"][task]["made_by"] = made_by
        path.write_text(json.dumps(index))
        with pytest.raises(UserError, match="collect.seed=3") as caught:
            DatasetStore.open(folder, [task])
        ending = f"collect.policies=FOLDER`, where FOLDER holds the policies of {task}."
        assert str(caught.value).endswith(ending) == named
        assert ("FOLDER" in str(caught.value)) == named


def test_the_remedy_of_a_lost_file_that_was_imported_imports_it_again(official, tmp_path, capsys):
    folder = shutil.copytree(official, tmp_path / "data")
    lost = folder / "reach-v2.hdf5"
    lost.unlink()
    with pytest.raises(UserError) as caught:
        DatasetStore.open(folder, ["reach-v2"])
    remedies = re.findall(
        "`m3dt (import .*)`, where SOURCE is the path of (.*)[.]", str(caught.value)
    )
    ((remedy, source),) = remedies
    assert source == OFFICIAL.name
    words = shlex.split(remedy.replace("SOURCE", str(OFFICIAL)))
    assert main([*words[:-2], "--tasks", "reach-v2,walker-walk"]) == 2  # that one is there
    assert "already holds walker-walk" in capsys.readouterr().err and not lost.exists()
    assert main(words) == 0
    for file in ("reach-v2.hdf5", "dataset.json"):
        assert (folder / file).read_bytes() == (official / file).read_bytes()
    lost.unlink()
    with pytest.raises(UserError, match="collecting would replace it.*`m3dt import SOURCE"):
        collect(folder, ["reach-v2"], CollectConfig(), Console(quiet=True))


def test_the_import_of_an_own_task_names_the_modules_that_register_it(tmp_path, monkeypatch):
    """A gymnasium id needs none; of a task that a notebook registered, nobody knows them."""
    path = write_dataset(tmp_path, ["reach-v2"])
    made_by = {"behaviour": "imported", "format": "minari", "source": "walk"}
    entry = replace(DatasetIndex.read(path).tasks["reach-v2"], made_by=made_by)
    source = "`, where SOURCE is the path of walk"
    modules = {"known": "own_swings", "lost": "__main__"}
    for name, module in modules.items():
        own = OwnTask(TaskSpec(name, "own", 3, 1, 20), lambda: None, None, module)
        monkeypatch.setitem(registration._own, name, own)
    monkeypatch.setattr(registration, "_plugins", ["own_tools"])
    endings = {
        "reach-v2": f"--tasks reach-v2{source}",
        "gym:Pendulum-v1": f"--tasks gym:Pendulum-v1{source}",
        "lost": f"--tasks lost --plugins MODULES{source} and MODULES register the task",
        "unknown": f"--tasks unknown --plugins MODULES{source} and MODULES register the task",
    }
    for task, ending in endings.items():
        assert made_again(path, task, entry).endswith(ending)
    (plugins,) = re.findall(
        f"--tasks known --plugins (.*){source}$", made_again(path, "known", entry)
    )
    assert {"own_tools", "own_swings"} <= set(plugins.split(","))


def test_missing_tasks_are_collected_as_those_that_are_there(data, tmp_path):
    """By the command that is printed, without or with the experiment's own."""
    folder = shutil.copytree(data, tmp_path / "data")
    index = DatasetIndex.read(folder)
    del index.tasks["ant-dir-6"]
    index.write(folder)
    conf = f"m3dt collect --conf quickstart data={folder} tasks=[ant-dir-6,reach-v2]"
    for given in ("", conf, f"{conf} collect.seed=0"):
        with pytest.raises(UserError) as caught:
            DatasetStore.open(folder, ["ant-dir-6", "reach-v2"], collected_by=given)
        (remedy,) = re.findall("run `m3dt (collect .*)`[.]", str(caught.value))
        assert remedy.count("collect.trajectories=6") == remedy.count("collect.seed=0") == 1
    assert main(shlex.split(remedy)) == 0
    assert (folder / "dataset.json").read_bytes() == (data / "dataset.json").read_bytes()


def test_missing_tasks_of_a_mixed_dataset_are_collected_as_far_as_its_tasks_agree(tmp_path):
    folder = write_dataset(tmp_path / "data", ["reach-v2", "push-v2"])
    path = folder / "dataset.json"
    index = json.loads(path.read_text())
    for seed, task in enumerate(index["tasks"]):
        index["tasks"][task]["made_by"] = {"seed": seed, "behaviour": "scripted"}
    path.write_text(json.dumps(index))
    remedy = f'`m3dt collect "tasks=[ant-dir-3]" data={folder} collect.trajectories=6`'
    with pytest.raises(UserError, match=re.escape(remedy)):
        DatasetStore.open(folder, ["reach-v2", "ant-dir-3"])


@pytest.fixture
def half_learned(tmp_path):
    """The index of a scripted task and one with the user's own policies, collected alike."""
    index = DatasetIndex.read(write_dataset(tmp_path / "data", ["reach-v2", "cheetah-vel-5"]))
    ways = {
        "reach-v2": {"seed": 3, "behaviour": "scripted"},
        "cheetah-vel-5": {"seed": 3, "behaviour": "learned", "policies": "f" * 64},
    }
    entries = {task: replace(index.tasks[task], made_by=way) for task, way in ways.items()}
    return DatasetIndex(entries, {})


def test_scripted_and_learned_tasks_agree_in_all_but_the_policies(half_learned, tmp_path):
    half_learned.write(tmp_path / "data")
    with pytest.raises(UserError) as caught:
        DatasetStore.open(tmp_path / "data", ["reach-v2", "ant-dir-3"])
    settings = "collect.trajectories=6 collect.seed=3 collect.policies=FOLDER"
    sentence = f"data={tmp_path / 'data'} {settings}`, where FOLDER holds their policies. If jobs"
    assert sentence in str(caught.value)


@pytest.mark.parametrize("own", ['"collect.policies=/own policies"', "'collect.policies=/own p'"])
def test_a_command_gets_no_setting_that_it_has(half_learned, own):
    command = f"m3dt collect --conf mt5 {own} data=/FOLDER collect.seed=4"
    assert collecting_like(half_learned, command) == (f"{command} collect.trajectories=6", "")
    command = f"{command} collect.trajectories=6"
    assert collecting_like(half_learned, command) == (command, "")


def test_a_seed_of_odd_type_is_no_failure(half_learned):
    half_learned.tasks["reach-v2"].made_by["seed"] = [3]
    assert collecting_like(half_learned, "m3dt collect collect.policies=p") == (
        "m3dt collect collect.policies=p collect.trajectories=6",
        "",
    )


def test_imported_data_are_not_collected_again(tmp_path):
    folder = write_dataset(tmp_path / "data", ["push-v2"])
    (folder / "push-v2.hdf5").unlink()
    with pytest.raises(UserError, match="To restore it, import its dataset again"):
        DatasetStore.open(folder, ["push-v2"])


def test_a_link_to_the_whole_folder_is_followed(tmp_path):
    folder = write_dataset(tmp_path / "data", ["reach-v2"])
    (tmp_path / "link").symlink_to(folder)
    assert verify(tmp_path / "link")["problems"] == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_refusal_of_the_system_is_not_called_damage(synthetic, monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    for owner, name in ((Path, "open"), (h5py, "File")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            with pytest.raises(
                UserError, match=rf"cannot be read.*{os.strerror(number)}"
            ) as caught:
                TaskStore.open(synthetic / "reach-v2.hdf5", get_task("reach-v2"))
        assert "cannot be read" in str(caught.value)
        assert "damaged" not in str(caught.value) and "Delete" not in str(caught.value)
