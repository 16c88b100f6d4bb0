"""Random input is accepted, or refused with one message and without leftovers."""

import io
import os
import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SYNTHETIC_TASKS, write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imports import OFFICIAL, import_from, left_alone
from test_import_pickles import chunk_of, episodes
from wrong_datasets import NUMBERS, TYPES, assert_consistent, make_wrong

from m3dt.config import Config, LoaderConfig, ModelConfig, load_config
from m3dt.data import DatasetStore, M3DTDataModule, TaskContext, TaskStream
from m3dt.data.verify import verify
from m3dt.tasks import get_task
from m3dt.utils.errors import UserError

# `make faults` runs many more.
EXAMPLES = int(os.environ.get("M3DT_FUZZ_EXAMPLES", 25))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 25,  # `make faults` draws new examples each time
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

KEYS = st.sampled_from(
    [
        "seed", "suite", "tasks", "method", "size", "compat", "data", "run", "model",
        "model.n_embd", "model.n_head", "model.dropout", "model.residual", "moe.num_experts",
        "moe.top_k",
        "loader.sampling", "loader.batch_size", "stage1.max_steps", "stage2.shard", "stage3.decay",
        "grouping.method", "harmodt.sparsity", "evaluation.tile", "trainer.devices", "trainer",
        "callbacks.conflict", "callbacks.conflict.every_n_steps", "callbacks.own.class", "nothing",
        "model.", ".model", "model..n_embd", "stage1.max_steps.x", "",
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.integers(-10, 10**12).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(str),
    st.sampled_from(
        ["", "null", "true", "[]", "[1, x]", "{a: 1}", "{", "mt10", "harmodt", "large", "official",
         "0/4", "4/4", "one_task", "random", "[reach-v2]", "${seed}", "???", "\\x00", "a=b"]
    ),
    st.text(max_size=12),
)  # fmt: skip


@fuzz
@given(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=4))
def test_overrides(pairs):
    try:
        config = load_config("quickstart", [f"{key}={value}" for key, value in pairs])
    except UserError as error:
        assert str(error)
    else:
        assert isinstance(config, Config)


@fuzz
@given(st.data())
def test_configuration_files(data):
    """A shipped file with random damage."""
    text = (Path(__file__).parents[1] / "conf/quickstart.yaml").read_text()
    changed = mutated(data, text.encode())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.yaml"
        path.write_bytes(changed)
        try:
            assert isinstance(load_config(str(path), []), Config)
        except UserError as error:
            assert str(error)


def mutated(data, content):
    """Return content with a few ranges of bytes changed, deleted, doubled or truncated."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        if not content:
            break
        kind = data.draw(st.sampled_from(["flip", "cut", "double", "end"]))
        start = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(1, 40))
        if kind == "flip":
            content[start] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[start : start + length]
        elif kind == "double":
            content[start:start] = content[start : start + length]
        else:
            del content[start:]
    return bytes(content)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("sound"), SYNTHETIC_TASKS)


@fuzz
@given(st.data())
def test_datasets(sound, data):
    """A damaged file is detected when it is opened, or by verify."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(shutil.copytree(sound, Path(parent) / "data"))
        name = data.draw(st.sampled_from(["dataset.json", "reach-v2.hdf5"]))
        before = (folder / name).read_bytes()
        after = mutated(data, before)
        (folder / name).write_bytes(after)
        try:
            store = DatasetStore.open(folder, SYNTHETIC_TASKS)
            model = ModelConfig(n_embd=8, n_head=1, context_length=5, prompt_length=3)
            streams = TaskStream(0, (0, 1, 2))
            module = M3DTDataModule(store, LoaderConfig(batch_size=4), model, 0, 1, streams)
            assert module.batch(0).segment.states.shape == (4, 5, 39)
            problems = verify(folder)["problems"]
        except UserError as error:
            problems = [str(error)]
        assert problems or after == before or name == "dataset.json"


@fuzz
@given(st.data())
def test_wrong_datasets(sound, data):
    """Refused by name, or consistent; whatever training reads of the others is finite."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(shutil.copytree(sound, Path(parent) / "data"))
        make_wrong(data, folder)
        try:
            problems = verify(folder)["problems"]
        except UserError as error:
            problems = [str(error)]
        assert all(str(folder) in problem or "unknown task" in problem for problem in problems)
        if not problems:
            assert_consistent(folder)
        try:
            store = DatasetStore.open(folder, SYNTHETIC_TASKS)
            model = ModelConfig(n_embd=8, n_head=1, context_length=5, prompt_length=3)
            streams = TaskStream(0, (0, 1, 2))
            module = M3DTDataModule(store, LoaderConfig(batch_size=8), model, 0, 1, streams)
            batches = [module.batch(step) for step in range(3)]
            context = TaskContext.from_store(store, LoaderConfig(), model)
        except UserError as error:
            assert problems or "lacks" in str(error)
            return
        read = [t for batch in batches for t in (*batch.segment, *batch.prompt)]
        assert all(tensor.isfinite().all() for tensor in (*read, *context.tensors().values()))


SUCCESSES = (
    np.array(True), np.zeros(5, bool), np.ones(3), np.array("yes"), np.array(np.nan),
    np.array([[1, 0]]),
)  # fmt: skip


def npz(data):
    task, number = data.draw(st.sampled_from(["reach-v2", "ant-dir-3"])), 0
    source = Path(tempfile.mkdtemp())
    shutil.copytree(OFFICIAL, source, dirs_exist_ok=True)
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


def wrong_episode(data):
    """Whole npz files whose arrays have other types, shapes or values."""
    source = Path(tempfile.mkdtemp())
    shutil.copytree(OFFICIAL, source, dirs_exist_ok=True)
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


def promptdt(data):
    rng, spec = np.random.default_rng(0), get_task("ant-dir-3")
    source = Path(tempfile.mkdtemp())
    content = pickle.dumps(episodes(spec, 4, rng), data.draw(st.sampled_from([2, 4, 5])))
    (source / "ant_dir-3-expert.pkl").write_bytes(mutated(data, content))
    return source, "promptdt"


def tdmpc2(data):
    source = Path(tempfile.mkdtemp())
    buffer = io.BytesIO()
    torch.save(chunk_of(), buffer)
    (source / "chunk_0.pt").write_bytes(mutated(data, buffer.getvalue()))
    return source, "tdmpc2"


@pytest.mark.parametrize(
    "damaged", [npz, wrong_episode, promptdt, tdmpc2], ids=lambda kind: kind.__name__
)
@fuzz
@given(data=st.data())
def test_imports(damaged, data):
    source, kind = damaged(data)
    target = Path(tempfile.mkdtemp()) / "data"
    try:
        import_from(source, target, kind)
    except UserError as error:
        assert str(error)
        assert not target.exists() or left_alone(target)
    else:
        assert verify(target)["problems"] == []
    finally:
        shutil.rmtree(source)
        shutil.rmtree(target.parent)
