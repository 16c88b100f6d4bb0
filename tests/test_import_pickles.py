"""TD-MPC2's and Prompt-DT's files: equal to naive reading, refused if damaged or malicious."""

import pickle

import numpy as np
import pytest
import torch
from imports import DATA, Evil, import_from, left_alone

from m3dt.data import DatasetStore
from m3dt.tasks import TASKS, get_task
from m3dt.utils.errors import UserError


def test_tdmpc2_chunk(tmp_path):
    """A chunk written by TensorDict; row t + 1 contains the action taken at observation t."""
    folder = tmp_path / "data"
    index = import_from(DATA / "tdmpc2_chunk.pt", folder, "tdmpc2")
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
        ({"reward": torch.zeros(3, 6)}, "numbers of episodes and steps differ"),
        ({"task": torch.arange(15).reshape(3, 5)}, "the task changes within an episode"),
        ({"obs": torch.full((3, 5, 24), torch.nan)}, "'observations' is not finite"),
    ],
)
def test_bad_tdmpc2_chunks(tmp_path, changes, message):
    torch.save(chunk_of(**changes), tmp_path / "chunk_0.pt")
    with pytest.raises(UserError, match=message):
        import_from(tmp_path, tmp_path / "data", "tdmpc2")
    assert left_alone(tmp_path / "data")


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
    import_from(tmp_path, tmp_path / "data", "promptdt")
    store = DatasetStore.open(tmp_path / "data", ["cheetah-vel-2"]).tasks[0]
    assert len(store.episode_ends) == 4 + 2
    kept = training + prompts[:2]
    expected = np.concatenate([e["observations"] for e in kept]).astype(np.float32)
    np.testing.assert_array_equal(store.observations, expected)
    rewards = np.concatenate([e["rewards"] for e in kept])[:, 0].astype(np.float32)
    np.testing.assert_array_equal(store.rewards, rewards)


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
        import_from(source, tmp_path / "data", kind)
    assert not mark.exists()
    assert left_alone(tmp_path / "data")


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
        import_from(tmp_path / "chunk.pt", tmp_path / "data", "tdmpc2")
    assert "runs" not in capfd.readouterr().out


class Memory:
    """Unpickles to an array of objects whose addresses come from the file."""

    def __reduce__(self):
        return (np.ndarray, ((4,), "O", b"A" * 32))


@pytest.mark.parametrize("value", [Memory(), np.array([{}, None]), np.zeros(2, "i4,O")])
def test_arrays_of_objects_are_refused(tmp_path, value):
    content = [{"observations": value, "actions": value, "rewards": value}]
    (tmp_path / "ant_dir-0-expert.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError):
        import_from(tmp_path, tmp_path / "data", "promptdt")


@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", b"PK\x03\x04", pickle.dumps({})])
def test_damaged_pickles(tmp_path, content):
    (tmp_path / "ant_dir-0-expert.pkl").write_bytes(content)
    (tmp_path / "chunk.pt").write_bytes(content)
    for kind in ("promptdt", "tdmpc2"):
        with pytest.raises(UserError):
            import_from(tmp_path, tmp_path / "data", kind)


def test_dmcontrol_order_is_mt30s():
    """Task numbers in TD-MPC2's chunks refer to this order."""
    names = [name for name, spec in TASKS.items() if spec.domain == "dmcontrol"]
    assert len(names) == 30
    assert names[0] == "walker-stand" and names[12] == "cup-catch" and names[29] == "pendulum-spin"
