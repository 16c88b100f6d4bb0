"""Datasets that are well formed but wrong."""

import json
import os
from dataclasses import replace

import h5py
import numpy as np
from conftest import SYNTHETIC_TASKS
from hypothesis import strategies as st

from fuzz.checks import ARRAYS
from fuzz.values import JSON, NUMBERS, TYPES
from m3dt.data.format import DatasetIndex
from m3dt.utils.errors import UserError
from m3dt.utils.files import sha256

ATTRIBUTES = ("schema_version", "task", "env_id", "state_mean", "state_std")
FIELDS = (
    "file", "env_id", "trajectories", "steps", "sha256", "return_quartiles", "success_rate",
    "made_by",
)  # fmt: skip

STORAGES = st.sampled_from(["contiguous", "chunked", "compressed", "unwritten"])


def make_wrong(data, folder):
    """Change one to three things of a dataset."""
    for number in range(data.draw(st.integers(1, 3))):
        change = data.draw(st.sampled_from(CHANGES))
        try:
            change(data, folder)
        except Exception:  # an earlier change stands in the way
            if number == 0:
                raise
    if data.draw(st.booleans()):
        settle_checksums(folder)


def settle_checksums(folder):
    """Give the index the checksums of the files as they are now."""
    try:
        index = DatasetIndex.read(folder)
    except UserError:
        return
    for task, entry in index.tasks.items():
        if (folder / entry.file).is_file() and not (folder / entry.file).is_symlink():
            index.tasks[task] = replace(entry, sha256=sha256(folder / entry.file))
    index.write(folder)


def some_file(data, folder):
    return folder / f"{data.draw(st.sampled_from(SYNTHETIC_TASKS))}.hdf5"


def change_value(data, folder):
    with h5py.File(some_file(data, folder), "r+") as file:
        array = file[data.draw(st.sampled_from(ARRAYS))]
        place = tuple(data.draw(st.integers(0, size - 1)) for size in array.shape)
        with np.errstate(all="ignore"):
            array[place] = np.asarray(data.draw(NUMBERS)).astype(array.dtype)


def change_attribute(data, folder):
    with h5py.File(some_file(data, folder), "r+") as file:
        name = data.draw(st.sampled_from(ATTRIBUTES))
        kind = data.draw(
            st.sampled_from(["delete", "one value", "scalar", "text", "short", "rank"])
        )
        before = file.attrs[name]
        del file.attrs[name]
        if kind == "delete":
            return
        if kind == "one value" and np.ndim(before):
            before[data.draw(st.integers(0, len(before) - 1))] = data.draw(NUMBERS)
            file.attrs[name] = before
        elif kind == "text":
            file.attrs[name] = data.draw(st.sampled_from([*SYNTHETIC_TASKS, "push-v2", ""]))
        elif kind in ("short", "rank") and np.ndim(before):
            file.attrs[name] = before[:-1] if kind == "short" else before[None]
        else:
            file.attrs[name] = data.draw(NUMBERS)


def replace_array(data, folder):
    """Keep the values of an array where its new type, shape and storage allow it."""
    with h5py.File(some_file(data, folder), "r+") as file:
        name = data.draw(st.sampled_from(ARRAYS))
        array = file[name][()]
        shape = data.draw(st.sampled_from(["same", "shorter", "longer", "rank", "empty", "scalar"]))
        array = {
            "same": array,
            "shorter": array[:-1],
            "longer": np.concatenate([array, array[-1:]]),
            "rank": array[None],
            "empty": array[:0],
            "scalar": array[-1:].ravel()[-1],
        }[shape]
        with np.errstate(all="ignore"):
            array = array.astype(data.draw(TYPES))
        storage = data.draw(STORAGES)
        del file[name]
        if storage == "unwritten":
            file.create_dataset(name, array.shape, array.dtype)
        elif storage == "contiguous" or array.ndim == 0:
            file[name] = array
        else:
            compression = "gzip" if storage == "compressed" else None
            file.create_dataset(name, data=array, chunks=True, compression=compression)


def move_array(data, folder):
    with h5py.File(some_file(data, folder), "r+") as file:
        first, second = data.draw(st.permutations(ARRAYS))[:2]
        kind = data.draw(st.sampled_from(["hard", "soft", "external", "group", "none"]))
        del file[first]
        if kind == "hard":
            file[first] = file[second]
        elif kind == "soft":
            file[first] = h5py.SoftLink(f"/{second}")
        elif kind == "external":
            file[first] = h5py.ExternalLink(f"{SYNTHETIC_TASKS[0]}.hdf5", first)
        elif kind == "group":
            file.create_group(first)


def change_episodes(data, folder):
    """Divide the steps differently, here and there consistently with the returns."""
    with h5py.File(some_file(data, folder), "r+") as file:
        steps = len(file["rewards"])
        ends = data.draw(st.lists(st.integers(-2, steps + 2), min_size=1, max_size=8))
        ends = np.array([*(sorted(ends) if data.draw(st.booleans()) else ends), steps], np.int64)
        rewards = file["rewards"][()].astype(np.float64)
        sums = [
            rewards[max(a, 0) : max(b, 0)].sum() for a, b in zip([0, *ends], ends, strict=False)
        ]
        count = len(ends) if data.draw(st.booleans()) else len(file["successes"])
        arrays = {
            "episode_ends": ends,
            "episode_returns": np.resize(np.float32(sums), count),
            "successes": np.zeros(count, np.uint8),
        }
        for name, array in arrays.items():
            del file[name]
            file[name] = array


def swap_files(data, folder):
    one, other = (some_file(data, folder) for _ in range(2))
    if not (one.is_file() and other.is_file()):
        raise OSError("a device may have no end")
    content = one.read_bytes(), other.read_bytes()
    other.write_bytes(content[0])
    one.write_bytes(content[data.draw(st.integers(0, 1))])


def replace_file(data, folder):
    path = data.draw(st.sampled_from([folder / "dataset.json", some_file(data, folder)]))
    kind = data.draw(st.sampled_from(["FIFO", "folder", "nothing", "device", "outside", "circle"]))
    if kind == "outside":
        path.rename(folder.parent / path.name)
    else:
        path.unlink()
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        targets = {"device": "/dev/zero", "outside": folder.parent / path.name, "circle": path}
        path.symlink_to(targets[kind])


def change_index(data, folder):
    path = folder / "dataset.json"
    if not path.is_file():
        return
    content = json.loads(path.read_text())
    entry = content["tasks"][data.draw(st.sampled_from(SYNTHETIC_TASKS))]
    target, names = data.draw(
        st.sampled_from(
            [
                (entry, FIELDS),
                (entry, FIELDS),
                (content["tasks"], (*SYNTHETIC_TASKS, "push-v2", "unknown")),
                (content, ("tasks", "versions", "schema_version")),
            ]
        )
    )
    name = data.draw(st.sampled_from(names))
    if data.draw(st.booleans()):
        target.pop(name, None)
    else:
        target[name] = data.draw(JSON)
    path.write_text(json.dumps(content))


CHANGES = (
    change_value, change_value, change_attribute, replace_array, move_array, change_episodes,
    swap_files, replace_file, change_index,
)  # fmt: skip
