"""Sources of imports: files of other projects with damaged bytes, or whole with wrong arrays."""

import io
import json
import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from hypothesis import strategies as st
from imports import OFFICIAL
from test_import_pickles import chunk_of, episodes
from test_minari_layouts import TASK, write_minari

from fuzz.values import JSON, NUMBERS, TYPES, mutated
from m3dt.tasks import get_task

SUCCESSES = (
    np.array(True), np.zeros(5, bool), np.ones(3), np.array("yes"), np.array(np.nan),
    np.array([[1, 0]]),
)  # fmt: skip


def _official():
    source = Path(tempfile.mkdtemp())
    return Path(shutil.copytree(OFFICIAL, source, dirs_exist_ok=True))


def damaged_npz(data):
    task, number = data.draw(st.sampled_from(["reach-v2", "ant-dir-3"])), 0
    source = _official()
    path = sorted((source / task).glob("*.npz"))[number]
    content = path.read_bytes()
    if data.draw(st.booleans()):  # inside the archive, whose checksums stay valid
        arrays = dict(np.load(io.BytesIO(content)))
        arrays["success"] = data.draw(st.sampled_from(SUCCESSES))
        name = data.draw(st.sampled_from(sorted(arrays)))
        raw = io.BytesIO()
        np.lib.format.write_array(raw, arrays.pop(name))
        with zipfile.ZipFile(path, "w") as archive:
            for key, array in arrays.items():
                kept = io.BytesIO()
                np.lib.format.write_array(kept, array)
                archive.writestr(f"{key}.npy", kept.getvalue())
            archive.writestr(f"{name}.npy", mutated(data, raw.getvalue()))
    else:
        path.write_bytes(mutated(data, content))
    return source, "npz"


def wrong_npz(data):
    """Whole npz files whose arrays have other types, shapes or values."""
    source = _official()
    path = data.draw(st.sampled_from(sorted(source.rglob("*.npz"))))
    arrays = dict(np.load(path))
    name = data.draw(st.sampled_from(sorted(arrays)))
    array = arrays[name].astype(data.draw(TYPES))
    place = tuple(data.draw(st.integers(0, size - 1)) for size in array.shape)
    with np.errstate(all="ignore"):
        array[place] = np.asarray(data.draw(NUMBERS)).astype(array.dtype)
    shapes = {"same": array, "rank": array[None], "short": array[1:], "flat": array.ravel()}
    arrays[name] = shapes[data.draw(st.sampled_from(sorted(shapes)))]
    np.savez(path, **arrays)
    return source, "npz"


def damaged_promptdt(data):
    rng, spec = np.random.default_rng(0), get_task("ant-dir-3")
    source = Path(tempfile.mkdtemp())
    content = pickle.dumps(episodes(spec, 4, rng), data.draw(st.sampled_from([2, 4, 5])))
    (source / "ant_dir-3-expert.pkl").write_bytes(mutated(data, content))
    return source, "promptdt"


def damaged_tdmpc2(data):
    source = Path(tempfile.mkdtemp())
    buffer = io.BytesIO()
    torch.save(chunk_of(), buffer)
    (source / "chunk_0.pt").write_bytes(mutated(data, buffer.getvalue()))
    return source, "tdmpc2"


def wrong_minari(data):
    """Minari's files with other arrays, groups or metadata, or with damaged bytes."""
    box = Box(-9, 9, (4,), np.float32)
    space = data.draw(st.sampled_from([Dict({"a": box, "b": box}), Box(-9, 9, (8,), np.float32)]))
    source = Path(tempfile.mkdtemp())
    write_minari(source, space, data.draw(st.sampled_from(["old", "new"])))
    path, metadata = source / "data" / "main_data.hdf5", source / "data" / "metadata.json"
    kind = data.draw(st.sampled_from(["array", "group", "metadata", "space", "bytes"]))
    if kind in ("array", "group"):
        names = ["episode_1", "observations", "observations/a", "actions", "rewards", "infos"]
        name = data.draw(st.sampled_from([*names, "infos/success"]))
        shape = data.draw(st.lists(st.integers(0, 9), max_size=3))
        with h5py.File(path, "r+") as file:
            parent = file if name == "episode_1" else file["episode_1"]
            if parent.get(name) is not None:
                del parent[name]
            elif "/" in name:
                name = name.split("/")[1]
            if kind == "group":
                parent.create_group(name)
            else:
                with np.errstate(all="ignore"):
                    value = np.asarray(data.draw(NUMBERS)).astype(data.draw(TYPES))
                parent[name] = np.full(shape, value)
    elif kind == "metadata":
        metadata.write_text(json.dumps(data.draw(JSON)))
    elif kind == "space":
        text = data.draw(st.one_of(st.text(max_size=5), JSON.map(json.dumps)))
        metadata.write_text(json.dumps({"observation_space": text}))
    else:
        path.write_bytes(mutated(data, path.read_bytes()))
    chosen = data.draw(st.sampled_from(["", " --observation b,a", " --observation a"]))
    return source, f"minari --tasks {TASK}{chosen}"
