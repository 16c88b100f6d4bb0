"""Odd files that list a dataset's tasks: each is one message."""

import json
import math
import shutil
from dataclasses import replace

import pytest
from conftest import write_dataset

from m3dt.data import DatasetStore
from m3dt.data.format import DatasetIndex
from m3dt.data.verify import verify
from m3dt.utils.errors import UserError
from m3dt.utils.files import parse_json


def entry_with(**fields):
    def change(content):
        content["tasks"]["reach-v2"].update(fields)

    return change


ODD_INDICES = {
    "absolute file": entry_with(file="/etc/passwd"),
    "file above": entry_with(file="../reach-v2.hdf5"),
    "file of odd type": entry_with(file=["reach-v2.hdf5"]),
    "file with null": entry_with(file="reach\0"),
    "same file": entry_with(file="push-v2.hdf5"),
    "counts as text": entry_with(trajectories="6"),
    "counts infinite": entry_with(steps=float("inf")),
    "counts huge": entry_with(steps=10**30),
    "counts true": entry_with(trajectories=True),
    "rate": entry_with(success_rate=2),
    "quartiles": entry_with(return_quartiles=[1, 2]),
    "quartiles of odd type": entry_with(return_quartiles={"a": 1}),
    "made by": entry_with(made_by="hand"),
    "sha256": entry_with(sha256=None),
    "unknown field": entry_with(colour="red"),
    "entry is text": lambda content: content["tasks"].update({"reach-v2": "here"}),
    "tasks are a list": lambda content: content.update(tasks=list(content["tasks"])),
    "tasks are nothing": lambda content: content.update(tasks=None),
    "versions are a list": lambda content: content.update(versions=[1]),
    "no versions": lambda content: content.pop("versions"),
}


@pytest.mark.parametrize("name", ODD_INDICES)
def test_odd_indices_are_one_message(tmp_path, name):
    folder = write_dataset(tmp_path, ["reach-v2", "push-v2"])
    content = json.loads((folder / "dataset.json").read_text())
    ODD_INDICES[name](content)
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"dataset\.json: not a dataset index") as caught:
        verify(folder)
    assert "Delete" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[]",
        b"3",
        b"null",
        b"",
        b"\xff\xfe",
        b'{"schema_version": 1, "tasks": {}, "versions": {}, "tasks": {}}',
    ],
)
def test_odd_json_is_one_message(tmp_path, text):
    (tmp_path / "dataset.json").write_bytes(text)
    with pytest.raises(UserError, match=r"dataset\.json: not a dataset index"):
        DatasetIndex.read(tmp_path)


@pytest.mark.parametrize("number", [10**400, -(10**400), float("inf"), float("nan")])
@pytest.mark.parametrize("field", ["success_rate", "return_quartiles", "steps"])
def test_a_number_beyond_floats_is_one_message(tmp_path, field, number):
    write_dataset(tmp_path, ["reach-v2"])
    content = json.loads((tmp_path / "dataset.json").read_text())
    value = [0, 0, number, 0, 0] if field == "return_quartiles" else number
    content["tasks"]["reach-v2"][field] = value
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"dataset\.json: not a dataset index .*{field}"):
        DatasetIndex.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "always"), [("1e999", False), ("Infinity", False), ("1" + 400 * "0", True)]
)
def test_json_numbers_beyond_floats_are_refused(text, always):
    for finite in (False, True):
        if finite or always:
            with pytest.raises(ValueError, match="holds"):
                parse_json(f"[{text}]", finite)
        else:
            assert parse_json(f"[{text}]", finite) == [math.inf]
    assert parse_json("[1, 2.5, 18446744073709551616]", True) == [1, 2.5, 2**64]


def test_an_entry_that_differs_from_its_file_is_found(tmp_path):
    folder = write_dataset(tmp_path, ["reach-v2"])
    index = DatasetIndex.read(folder)
    entry = index.tasks["reach-v2"]
    changes = {
        "env_id": "push-v3",
        "trajectories": 7,
        "steps": 119,
        "return_quartiles": [0, 0, 0, 0, 9000],
    }
    for name, value in changes.items():
        DatasetIndex({"reach-v2": replace(entry, **{name: value})}, {}).write(folder)
        (problem,) = verify(folder)["problems"]
        assert f"{name} is" in problem and "but the index says" in problem
        with pytest.raises(UserError, match=f"{name} is .* but the index says .*Delete it and"):
            DatasetStore.open(folder, ["reach-v2"])


def test_a_file_that_its_index_does_not_describe_is_refused(tmp_path):
    """It was taken from another dataset; its scores would be credited to the index's data."""
    folder = write_dataset(tmp_path / "one", ["reach-v2"])
    other = write_dataset(tmp_path / "other", ["reach-v2"], seed=1)
    (file,) = folder.glob("*.hdf5")
    shutil.copy(other / file.name, file)
    with pytest.raises(UserError, match="return_quartiles is"):
        DatasetStore.open(folder, ["reach-v2"])
