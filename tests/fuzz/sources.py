"""Sources of imports: files of other projects with damaged bytes, or whole with wrong arrays."""

import io
import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from imports import OFFICIAL
from test_import_pickles import chunk_of, episodes

from fuzz.values import NUMBERS, TYPES, mutated
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
