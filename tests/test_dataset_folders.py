"""What lies in a dataset's folder: links, other files in place of data, lost files."""

import errno
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import h5py
import pytest
from conftest import write_dataset

from m3dt.behaviour import Library
from m3dt.cli import main
from m3dt.data import DatasetStore
from m3dt.data.store import TaskStore
from m3dt.data.verify import verify
from m3dt.tasks import get_task
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
        assert ("collect.policies=FOLDER` with the folder" in str(caught.value)) == named


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
