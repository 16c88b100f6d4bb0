"""Datasets of other projects: read as their own loaders read them, refused whole when damaged."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from m3dt.cli import main
from m3dt.config import load_config
from m3dt.data import DatasetStore
from m3dt.data.format import DatasetIndex
from m3dt.data.importers import import_dataset
from m3dt.data.sampler import TaskSampler
from m3dt.data.verify import verify
from m3dt.errors import UserError
from m3dt.tasks import TASKS, get_task

DATA = Path(__file__).parent / "data"
OFFICIAL = DATA / "official_dataset" / "mt160_used"
GOLDEN = np.load(DATA / "official_dataset" / "loader_golden.npz")
OFFICIAL_TASKS = ("reach-v2", "walker-walk", "ant-dir-3")


def run(source, folder, kind, *names):
    return import_dataset(Path(source), Path(folder), kind, names, Console(quiet=True))


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official") / "data"
    run(OFFICIAL, folder, "npz")
    return folder


@pytest.mark.parametrize("task", OFFICIAL_TASKS)
class TestOfficialLoader:
    """The authors' loader on their layout, recorded: its batches and prompts are ours."""

    def sampler(self, folder, task):
        config = load_config("mt160", ["compat=official"])
        store = DatasetStore.open(folder, [task]).tasks[0]
        return TaskSampler(store, config.loader, config.model.max_timesteps)

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
        rows = sampler.segments(trajectory, begin, 20, sampler.normalization)
        self.compare(rows, task, "batch", atol=1e-5)

    def test_prompts(self, official, task):
        """Each of their prompts is one of our two; they repeat one 14 times and the other twice."""
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
    assert "holds reach-v2 already" in capsys.readouterr().err


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
    """reach-v2 is sound and comes first; the bad walker-walk takes it along."""
    source, folder = broken(tmp_path, change), tmp_path / "data"
    with pytest.raises(UserError, match=message) as caught:
        run(source, folder, "npz")
    assert str(Path("walker-walk") / "3.npz") in str(caught.value)
    assert list(folder.iterdir()) == []
    run(source, folder, "npz", "reach-v2", "ant-dir-3")  # what is sound can be had
    assert sorted(DatasetStore.open(folder, ["ant-dir-3"]).folder.glob("*.hdf5"))


def test_adding_to_a_dataset_keeps_it_when_the_import_fails(tmp_path):
    folder = tmp_path / "data"
    run(OFFICIAL, folder, "npz", "reach-v2")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError):
        run(broken(tmp_path, set_nan), folder, "npz", "walker-walk", "ant-dir-3")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    run(OFFICIAL, folder, "npz", "walker-walk")
    assert verify(folder)["tasks"] == 2


def test_damaged_and_absent_sources(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(OFFICIAL, source)
    (source / "reach-v2" / "0.npz").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(UserError, match="0.npz: damaged"):
        run(source, tmp_path / "data", "npz")
    with pytest.raises(UserError, match="nothing here"):
        run(tmp_path / "none", tmp_path / "data", "npz")
    with pytest.raises(UserError, match="holds no walker-run; it has"):
        run(OFFICIAL, tmp_path / "data", "npz", "walker-run")


def test_tdmpc2_chunk(tmp_path):
    """A chunk as TensorDict writes it; row t + 1 holds the action taken at observation t."""
    folder = tmp_path / "data"
    index = run(DATA / "tdmpc2_chunk.pt", folder, "tdmpc2")
    assert list(index.tasks) == ["cheetah-run", "hopper-hop"]  # numbers 3 and 18 of mt30
    store = DatasetStore.open(folder, ["cheetah-run", "hopper-hop"])
    cheetah, hopper = store.tasks
    assert cheetah.observations.shape == (4 * 8, 17) and hopper.actions.shape == (3 * 8, 4)
    chunk = np.load(DATA / "tdmpc2_chunk.npz")
    rows = np.flatnonzero(chunk["task"][:, 0] == 3)
    for i, row in enumerate(rows):
        steps = slice(8 * i, 8 * i + 8)
        np.testing.assert_array_equal(cheetah.observations[steps], chunk["obs"][row, :8, :17])
        np.testing.assert_array_equal(cheetah.actions[steps], chunk["action"][row, 1:, :6])
        np.testing.assert_array_equal(cheetah.rewards[steps], chunk["reward"][row, 1:])


def chunk_of(**changes):
    chunk = {
        "obs": torch.zeros(3, 5, 24),
        "action": torch.zeros(3, 5, 6),
        "reward": torch.zeros(3, 5),
        "task": torch.zeros(3, 5, dtype=torch.int32),
    }
    return {name: value for name, value in (chunk | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": torch.full((3, 5), 47)}, "task numbers up to 47"),
        ({"reward": None}, "'reward' must be a tensor of rank 2"),
        ({"reward": torch.zeros(3, 6)}, "episodes and steps differ"),
        ({"task": torch.arange(15).reshape(3, 5)}, "the task changes within an episode"),
        ({"obs": torch.full((3, 5, 24), torch.nan)}, "'observations' is not finite"),
    ],
)
def test_bad_tdmpc2_chunks(tmp_path, changes, message):
    torch.save(chunk_of(**changes), tmp_path / "chunk_0.pt")
    with pytest.raises(UserError, match=message):
        run(tmp_path, tmp_path / "data", "tdmpc2")
    assert not list((tmp_path / "data").glob("*"))


def episodes(spec, count, rng):
    return [
        {
            "observations": rng.normal(size=(6, spec.state_dim)),
            "next_observations": rng.normal(size=(6, spec.state_dim)),
            "actions": rng.uniform(-1, 1, (6, spec.action_dim)).astype(np.float32),
            "rewards": rng.normal(size=(6, 1)),
            "terminals": np.zeros((6, 1), bool),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_promptdt_pickles(tmp_path, protocol):
    rng, spec = np.random.default_rng(0), get_task("cheetah-vel-2")
    training, prompts = episodes(spec, 4, rng), episodes(spec, 3, rng)
    source = tmp_path / "cheetah_vel"
    source.mkdir()
    for name, content in (("expert", training), ("prompt-expert", prompts)):
        path = source / f"cheetah_vel-2-{name}.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
    run(tmp_path, tmp_path / "data", "promptdt")
    store = DatasetStore.open(tmp_path / "data", ["cheetah-vel-2"]).tasks[0]
    assert len(store.episode_ends) == 4 + 2
    kept = training + prompts[:2]
    expected = np.concatenate([e["observations"] for e in kept]).astype(np.float32)
    np.testing.assert_array_equal(store.observations, expected)
    rewards = np.concatenate([e["rewards"] for e in kept])[:, 0].astype(np.float32)
    np.testing.assert_array_equal(store.rewards, rewards)


class Evil:
    """Pickles to a call that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["promptdt", "tdmpc2"])
def test_malicious_pickles_execute_nothing(tmp_path, kind):
    mark = tmp_path / "executed"
    source = tmp_path / "source"
    source.mkdir()
    if kind == "promptdt":
        (source / "ant_dir-0-expert.pkl").write_bytes(pickle.dumps([Evil(mark)]))
    else:
        torch.save(chunk_of(extra=Evil(mark)), source / "chunk_0.pt")
    with pytest.raises(UserError, match="no data file needs"):
        run(source, tmp_path / "data", kind)
    assert not mark.exists()
    assert not list((tmp_path / "data").glob("*"))


def test_torchscript_programs_execute_nothing(tmp_path, capfd):
    class Talking(torch.nn.Module):
        @torch.jit.export
        def __getstate__(self):
            return (1, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[int, bool]):
            print("the file's code runs")
            self.training = state[1]

        def forward(self, x):
            return x

    torch.jit.save(torch.jit.script(Talking()), str(tmp_path / "chunk.pt"))
    with pytest.raises(UserError, match="TorchScript"):
        run(tmp_path / "chunk.pt", tmp_path / "data", "tdmpc2")
    assert "runs" not in capfd.readouterr().out


class Memory:
    """Pickles to an array whose objects are read from the bytes of the file."""

    def __reduce__(self):
        return (np.ndarray, ((4,), "O", b"A" * 32))


@pytest.mark.parametrize("value", [Memory(), np.array([{}, None]), np.zeros(2, "i4,O")])
def test_arrays_of_objects_are_refused(tmp_path, value):
    content = [{"observations": value, "actions": value, "rewards": value}]
    (tmp_path / "ant_dir-0-expert.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError):
        run(tmp_path, tmp_path / "data", "promptdt")


def test_incomplete_sources_are_refused(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(OFFICIAL, source)
    (source / "walker-walk" / "2.npz").unlink()
    with pytest.raises(UserError, match="2.npz is missing"):
        run(source, tmp_path / "data", "npz")
    (tmp_path / "ant_dir-45-expert.pkl").write_bytes(pickle.dumps([]))
    with pytest.raises(UserError, match="no file such as"):
        run(tmp_path, tmp_path / "data", "promptdt")


def test_what_a_killed_import_left_is_cleaned(tmp_path):
    folder = tmp_path / "data"
    (folder / ".staging.0123.tmp").mkdir(parents=True)
    run(OFFICIAL, folder, "npz", "reach-v2")
    assert sorted(p.name for p in folder.iterdir()) == ["dataset.json", "reach-v2.hdf5"]


@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", b"PK\x03\x04", pickle.dumps({})])
def test_damaged_pickles(tmp_path, content):
    (tmp_path / "ant_dir-0-expert.pkl").write_bytes(content)
    (tmp_path / "chunk.pt").write_bytes(content)
    for kind in ("promptdt", "tdmpc2"):
        with pytest.raises(UserError):
            run(tmp_path, tmp_path / "data", kind)


def test_minari_round_trip(official, tmp_path, capsys):
    pytest.importorskip("minari")
    root = tmp_path / "minari"
    assert main(["export", str(official), str(root)]) == 0
    for task in OFFICIAL_TASKS:
        source = root / "m3dt" / f"{task.removesuffix('-v2')}-v0"
        run(source, tmp_path / "data", "minari", task)
        one, other = (
            DatasetStore.open(folder, [task]).tasks[0] for folder in (official, tmp_path / "data")
        )
        index = DatasetIndex.read(tmp_path / "data")
        assert index.tasks[task].success_rate is None  # nobody recorded it
        for name in ("observations", "actions", "rewards", "episode_ends"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert main(["export", str(official), str(root)]) == 2
    assert "holds reach-v2" in capsys.readouterr().err
    with pytest.raises(UserError, match="name it with --tasks"):
        run(root / "m3dt" / "reach-v0", tmp_path / "other", "minari")
    with pytest.raises(UserError, match="no Minari dataset"):
        run(root, tmp_path / "other", "minari", "reach-v2")


def test_dmcontrol_order_is_mt30s():
    """Numbers in TD-MPC2's chunks rely on it."""
    names = [name for name, spec in TASKS.items() if spec.domain == "dmcontrol"]
    assert len(names) == 30
    assert names[0] == "walker-stand" and names[12] == "cup-catch" and names[29] == "pendulum-spin"


def test_commands_formats_are_the_importers(capsys):
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    from m3dt.data.importers import FORMATS

    assert "{" + ",".join(FORMATS) + "}" in capsys.readouterr().out
