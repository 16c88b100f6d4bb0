"""Minari datasets of old and new versions, written by hand; minari itself is not needed."""

import json
import re
import sys
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Tuple, flatten
from imports import import_from, left_alone

from m3dt.cli import main
from m3dt.data import DatasetStore
from m3dt.data.format import DatasetIndex
from m3dt.utils.errors import UserError

TASK = "cup-catch"  # 8 observations, 2 actions
STEPS = (5, 3, 4)
NESTED = Dict(
    [  # not in alphabetical order
        ("velocity", Box(-9, 9, (2, 2), np.float32)),
        ("goal", Dict([("y", Box(-9, 9, (1,), np.float32)), ("x", Box(-9, 9, (), np.float32))])),
        ("cup", Tuple([Box(-9, 9, (1,), np.float32)] * 2)),
    ]
)


def described(space):
    """Write a space as Minari does."""
    if isinstance(space, Dict):
        parts = {key: described(part) for key, part in space.items()}
    elif isinstance(space, Tuple):
        parts = [described(part) for part in space]
    else:
        return {"type": "Box", "shape": list(space.shape)}
    return {"type": type(space).__name__, "subspaces": parts}


def put(group, name, values):
    """Write the stacked samples of a space."""
    if isinstance(values[0], dict):
        for key in values[0]:
            put(group.require_group(name), key, [value[key] for value in values])
    elif isinstance(values[0], tuple):
        for i in range(len(values[0])):
            put(group.require_group(name), f"_index_{i}", [value[i] for value in values])
    else:
        group[name] = np.array(values)


def write_minari(folder, space, layout="new", describe=True):
    """Write random episodes; return their observations, actions, rewards."""
    rng = np.random.default_rng(0)
    space.seed(0)
    episodes = []
    (folder / "data").mkdir(parents=True)
    metadata = {"total_episodes": len(STEPS), "dataset_id": "own/cup-v0"}
    if describe:
        metadata["observation_space"] = json.dumps(described(space))
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for number, steps in enumerate(STEPS):
            observations = [space.sample() for _ in range(steps + 1)]
            actions, rewards = rng.uniform(-1, 1, (steps, 2)), rng.uniform(size=steps)
            group = file.create_group(f"episode_{number}")
            put(group, "observations", observations)
            group["actions"], group["rewards"] = actions, rewards
            group["infos/success"] = np.arange(steps + 1) == (steps if number else -1)
            episodes.append((observations, actions, rewards))
        if layout == "old":
            file.attrs.update(metadata)
    if layout == "new":
        (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    return episodes


def imported(folder):
    (task,) = DatasetStore.open(folder, [TASK]).tasks
    return task


@pytest.mark.parametrize("layout", ["old", "new"])
@pytest.mark.parametrize("place", ["", "data", "data/main_data.hdf5"])
def test_both_layouts_are_read_without_minari(tmp_path, layout, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    episodes = write_minari(tmp_path / "m", Box(-9, 9, (8,), np.float32), layout)
    index = import_from(tmp_path / "m" / place, tmp_path / "data", "minari", TASK)
    assert index.tasks[TASK].success_rate == 0.6667
    task = imported(tmp_path / "data")
    expected = np.concatenate([observations[:-1] for observations, _, _ in episodes])
    np.testing.assert_array_equal(task.observations, expected)
    for array, part in ((task.actions, 1), (task.rewards, 2)):
        expected = np.concatenate([episode[part] for episode in episodes])
        np.testing.assert_array_equal(array, expected.astype(np.float32))
    np.testing.assert_array_equal(task.episode_ends, np.cumsum(STEPS))


def test_actions_are_rescaled_from_their_bounds(tmp_path):
    """By what gymnasium's wrapper makes of the imported actions."""
    episodes = write_minari(tmp_path / "m", PLAIN)
    box = Box(np.array([-2, 0], np.float32), np.array([3, 2], np.float32))
    space = {"type": "Box", "low": box.low.tolist(), "high": box.high.tolist()}
    change_metadata(action_space=json.dumps(space))(tmp_path / "m")
    replace("actions", [box.low, box.high, [0.5, 1]])(tmp_path / "m")
    replace("rewards", np.ones(3))(tmp_path / "m")
    replace("observations", [episodes[0][0][0]] * 4)(tmp_path / "m")
    import_from(tmp_path / "m", tmp_path / "data", "minari", TASK)
    actions = imported(tmp_path / "data").actions[:3]
    np.testing.assert_allclose(actions, [[-1, -1], [1, 1], [0, 0]])
    env = gymnasium.Env()
    env.action_space, env.observation_space = box, PLAIN
    native = [gymnasium.wrappers.RescaleAction(env, -1, 1).action(action) for action in actions]
    np.testing.assert_allclose(native, [box.low, box.high, [0.5, 1]])


def test_a_file_on_its_own_is_a_dataset(tmp_path):
    write_minari(tmp_path / "m", Box(-9, 9, (8,), np.float32), "old")
    file = (tmp_path / "m" / "data" / "main_data.hdf5").rename(tmp_path / "cup.h5")
    index = import_from(file, tmp_path / "data", "minari", TASK)
    assert index.tasks[TASK].trajectories == 3


@pytest.mark.parametrize("layout", ["old", "new"])
def test_dictionaries_are_flattened_as_gymnasium_does(tmp_path, layout):
    episodes = write_minari(tmp_path / "m", NESTED, layout)
    index = import_from(tmp_path / "m", tmp_path / "data", "minari", TASK)
    flat = [flatten(NESTED, sample) for episode in episodes for sample in episode[0][:-1]]
    np.testing.assert_array_equal(imported(tmp_path / "data").observations, flat)
    assert "observation" not in index.tasks[TASK].made_by


def test_an_unrecorded_space_is_flattened_by_name(tmp_path):
    write_minari(tmp_path / "m", NESTED, describe=False)
    import_from(tmp_path / "m", tmp_path / "data", "minari", TASK)
    with h5py.File(tmp_path / "m" / "data" / "main_data.hdf5") as file:
        parts = file["episode_0/observations"]
        order = ["cup/_index_0", "cup/_index_1", "goal/x", "goal/y", "velocity"]
        flat = np.concatenate([parts[name][:-1].reshape(5, -1) for name in order], axis=1)
    np.testing.assert_array_equal(imported(tmp_path / "data").observations[:5], flat)


@pytest.mark.parametrize(
    "options",
    [["--observation", "b,c/e,a"], ["--observation", "b", "--observation", "c/e,a"]],
    ids=["list", "repeated"],
)
def test_observations_are_chosen_by_key_in_the_order_given(tmp_path, options):
    box = Box(-9, 9, (2,), np.float32)
    words = Box(-9, 9, (4,), np.float32)
    space = Dict({"a": box, "b": words, "c": Dict({"d": box, "e": box}), "image": words})
    episodes = write_minari(tmp_path / "m", space)
    with h5py.File(tmp_path / "m" / "data" / "main_data.hdf5", "r+") as file:
        for episode in file.values():  # what is not chosen is not read
            del episode["observations/image"]
            episode["observations/image"] = ["a picture"]
    command = ["import", str(tmp_path / "m"), str(tmp_path / "data"), "--format", "minari"]
    assert main([*command, "--tasks", TASK, *options]) == 0
    expected = [
        np.concatenate((sample["b"], sample["c"]["e"], sample["a"]))
        for observations, _, _ in episodes
        for sample in observations[:-1]
    ]
    np.testing.assert_array_equal(imported(tmp_path / "data").observations, expected)
    made_by = DatasetIndex.read(tmp_path / "data").tasks[TASK].made_by
    assert made_by["observation"] == ["b", "c/e", "a"]


def change_file(change):
    def apply(folder):
        with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
            change(file)

    return apply


def change_metadata(**values):
    def apply(folder):
        path = folder / "data" / "metadata.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return apply


def replace(name, values):
    def change(file):
        for episode in file.values():
            if name in episode:
                del episode[name]
            episode[name] = values

    return change_file(change)


def divide_actions(file):
    del file["episode_0/actions"]
    file["episode_0/actions/left"] = np.ones((5, 1))


def as_arrow(folder):
    (folder / "data" / "main_data.hdf5").unlink()
    change_metadata(data_format="arrow")(folder)


def as_discrete(folder):
    space = {**described(PAIR), "subspaces": {"seen": {"type": "Discrete"}}}
    change_metadata(observation_space=json.dumps(space))(folder)


def cut_metadata(folder):
    (folder / "data" / "metadata.json").write_text('{"total_episodes": ')


PAIR = Dict({"achieved": Box(-9, 9, (8,), np.float32), "seen": Box(-9, 9, (8,), np.float32)})
PLAIN = Box(-9, 9, (8,), np.float32)


@pytest.mark.parametrize(
    ("space", "change", "keys", "words"),
    [
        (PAIR, None, [], ["achieved (8), seen (8)", "8 numbers, not the 16 of achieved"]),
        (PAIR, None, ["see"], ["no observation 'see'", "achieved, seen"]),
        (PLAIN, None, ["seen"], ["one array", "leave out --observation seen"]),
        (PAIR, replace("observations/seen", ["a"] * 6), ["achieved", "seen"], ["not the 9 of"]),
        (PAIR, replace("observations/seen", [[b"a"] * 8] * 6), ["seen"], ["seen' holds object"]),
        (PAIR, replace("observations/seen", np.ones((4, 8))), ["seen"], ["3 observations"]),
        (PLAIN, replace("observations", np.ones((6, 9, 9, 3))), [], ["shape (5, 9, 9, 3)"]),
        (PAIR, as_discrete, ["seen"], ["'seen' is Discrete, not an array"]),
        (PLAIN, replace("observations", 1.0), [], ["'observations' has shape (0,)"]),
        (PLAIN, replace("actions", np.ones(5, int)), [], ["'actions' has shape (5,)"]),
        (PLAIN, change_file(divide_actions), [], ["'actions' is a dictionary", "'left'"]),
        (PLAIN, change_file(lambda file: file.pop("episode_1")), [], ["episode_1 is missing"]),
        (PLAIN, as_arrow, [], ["format arrow", "pip install 'minari[arrow]'", "docs/data.md"]),
        (PLAIN, cut_metadata, [], ["metadata.json: damaged"]),
        (PAIR, change_metadata(observation_space="{"), [], ["main_data.hdf5: damaged"]),
    ],
)  # fmt: skip
def test_mistakes_have_one_message(tmp_path, space, change, keys, words):
    write_minari(tmp_path / "m", space)
    if change is not None:
        change(tmp_path / "m")
    folder = tmp_path / "data"
    with pytest.raises(UserError) as caught:
        import_from(tmp_path / "m", folder, "minari", TASK, observation=keys)
    for word in words:
        assert word in str(caught.value)
    assert left_alone(folder)


def test_other_formats_have_no_keys_to_choose(tmp_path, capsys):
    command = ["import", str(tmp_path), str(tmp_path / "data"), "--format", "npz"]
    assert main([*command, "--observation", "seen"]) == 2
    assert "--observation is for --format minari" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_lines_for_arrow_convert(tmp_path, monkeypatch):
    """docs/data.md gives them to those whose dataset is refused."""
    minari = pytest.importorskip("minari")
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    buffers = []
    for number, steps in enumerate(STEPS):
        buffers.append(minari.data_collector.EpisodeBuffer(
            id=number,
            observations={key: np.full((steps + 1, 4), number, np.float32) for key in "ba"},
            actions=np.zeros((steps, 2), np.float32),
            rewards=list(range(steps)),
            terminations=[False] * steps,
            truncations=[False] * (steps - 1) + [True],
        ))  # fmt: skip
    minari.create_dataset_from_buffers(
        "own/cup-v0", buffers, data_format="arrow",
        observation_space=Dict({key: Box(-9, 9, (4,), np.float32) for key in "ab"}),
        action_space=Box(-1, 1, (2,), np.float32),
    )  # fmt: skip
    with pytest.raises(UserError, match="format arrow"):
        import_from(tmp_path / "own" / "cup-v0", tmp_path / "data", "minari", TASK)
    document = (Path(__file__).parents[1] / "docs/data.md").read_text()
    (lines,) = re.findall(r"```python\n(import minari.+?)```", document, re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "cup-v0").rename(tmp_path / "ARROW")
    exec(lines, {})
    import_from(tmp_path / "HDF5", tmp_path / "data2", "minari", TASK)
    task = imported(tmp_path / "data2")
    assert task.observations[:, 0].tolist() == [0] * 5 + [1] * 3 + [2] * 4
