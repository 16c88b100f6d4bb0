"""Sources as people have them: refused with a remedy, or imported with a word about it."""

import json
import os
import pickle
import resource
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from imports import OFFICIAL, OFFICIAL_TASKS, import_from, left_alone
from rich.console import Console
from test_import_pickles import chunk_of, episodes

from m3dt.cli import main
from m3dt.data import DatasetStore
from m3dt.data.format import DatasetIndex
from m3dt.data.importers import import_dataset
from m3dt.data.values import unusual_returns
from m3dt.data.verify import verify
from m3dt.tasks import get_task
from m3dt.utils.errors import UserError


def import_and_read(source, folder, kind, *names):
    """Import, and return what was printed, in one line."""
    console = Console(width=200, record=True, file=open(os.devnull, "w"))
    import_dataset(source, folder, kind, names, console)
    return " ".join(console.export_text().split())


@pytest.fixture
def reach(tmp_path):
    """Return a function that copies the episodes of reach-v2 with changed arrays."""

    def make(change):
        source = tmp_path / "source" / "reach-v2"
        shutil.copytree(OFFICIAL / "reach-v2", source)
        for path in source.glob("*.npz"):
            arrays = dict(np.load(path))
            change(arrays)
            np.savez(path, **arrays)
        return source.parent

    return make


def test_actions_out_of_range_are_clipped_and_counted(reach, tmp_path):
    """As the environments clip them; and exported, they lie in the space that is declared."""

    def stretch(arrays):
        arrays["actions"][:3, :4] = 15.0
        arrays["actions"][3, 1] = -1.5

    folder = tmp_path / "data"
    printed = import_and_read(reach(stretch), folder, "npz")
    count = len(list((OFFICIAL / "reach-v2").glob("*.npz")))
    entry = DatasetIndex.read(folder).tasks["reach-v2"]
    assert f"the actions of {4 * count} of {entry.steps} steps were outside [-1, 1]" in printed
    assert entry.made_by["clipped_actions"] == 4 * count
    actions = DatasetStore.open(folder, ["reach-v2"]).tasks[0].actions
    assert (actions[:3] == 1).all() and actions[3, 1] == -1 and np.abs(actions).max() == 1
    assert verify(folder)["problems"] == []


def test_actions_out_of_range_are_neither_sound_nor_exported(official, tmp_path):
    pytest.importorskip("minari")
    folder = shutil.copytree(official, tmp_path / "data")
    with h5py.File(folder / "reach-v2.hdf5", "r+") as file:
        file["actions"][4, 2] = 15
    problems = verify(folder)["problems"]
    assert any(
        "'actions' holds 15, beyond 1, first in trajectory 0 at step 4" in p for p in problems
    )
    assert main(["export", str(folder), str(tmp_path / "minari"), "--tasks", "reach-v2"]) == 2
    assert not (tmp_path / "minari").exists()


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("value", [3e38, -1e11, 1e300, np.inf])
def test_absurd_values_are_refused(reach, tmp_path, name, value):
    def absurd(arrays):
        arrays[name] = arrays[name].astype(np.float64)
        arrays[name][2] = value

    with pytest.raises(UserError, match=rf"'{name}' (holds|is not finite).*first at step 2"):
        import_from(reach(absurd), tmp_path / "data", "npz")
    assert left_alone(tmp_path / "data")


@pytest.mark.parametrize(("factor", "said"), [(1.0, False), (1e-3, True), (1e3, True)])
def test_rewards_in_another_unit_are_noted(tmp_path, factor, said, capsys):
    """When they are imported, verified and trained on; full episodes of a good policy."""
    spec, rng = get_task("walker-walk"), np.random.default_rng(0)
    source = tmp_path / "source" / spec.name
    source.mkdir(parents=True)
    for number in range(3):
        arrays = {"observations": rng.normal(size=(500, 24)), "rewards": np.full(500, 1.9 * factor)}
        np.savez(source / f"{number}.npz", actions=rng.uniform(-1, 1, (500, 6)), **arrays)
    folder, expected = tmp_path / "data", "evaluation asks for 1000"
    assert (expected in import_and_read(source.parent, folder, "npz")) == said
    report = verify(folder)
    assert report["problems"] == [] and (expected in "".join(report["notes"])) == said
    assert main(["verify", str(folder)]) == 0
    assert (expected in " ".join(capsys.readouterr().out.split())) == said
    assert (expected in "".join(DatasetStore.open(folder, [spec.name]).notes())) == said


def test_best_returns_of_all_domains_are_usual():
    """The collected dataset of all tasks, described in results/, needs no note."""
    described = json.loads((Path(__file__).parents[1] / "results/dataset_mt160.json").read_text())
    assert len(described) == 160
    for task, entry in described.items():
        returns = np.array(entry["return_quartiles"])
        assert unusual_returns(get_task(task), returns) is None
        assert unusual_returns(get_task(task), returns / 1000) is not None
        assert unusual_returns(get_task(task), returns * 1000) is not None


@pytest.fixture
def minari_root(tmp_path, official):
    pytest.importorskip("minari")
    root = tmp_path / "minari"
    assert main(["export", str(official), str(root), "--tasks", "walker-walk"]) == 0
    return root / "m3dt" / "walker-walk-v0"


@pytest.mark.parametrize("place", ["", "data", "data/main_data.hdf5", "data/metadata.json"])
def test_a_minari_dataset_is_named_by_any_of_its_files(minari_root, tmp_path, place):
    import_from(minari_root / place, tmp_path / "data", "minari", "walker-walk")
    assert verify(tmp_path / "data")["problems"] == []


def test_a_minari_dataset_that_is_there_already_goes_into_another_folder(minari_root, tmp_path):
    """It holds one task, so that there are no others to name."""
    folder = tmp_path / "data"
    import_from(minari_root, folder, "minari", "walker-walk")
    with pytest.raises(UserError, match=r"holds walker-walk\. Import into another folder\.$"):
        import_from(minari_root, folder, "minari", "walker-walk")


def test_the_root_of_exported_datasets_names_them(official, tmp_path):
    pytest.importorskip("minari")
    root = tmp_path / "minari"
    assert main(["export", str(official), str(root)]) == 0
    parts = [root / "m3dt" / f"{task}-v0" for task in sorted(OFFICIAL_TASKS)]
    for source, names in ((root, ("reach-v2",)), (root, ()), (root / "m3dt", ("reach-v2",))):
        with pytest.raises(UserError, match="no Minari dataset") as caught:
            import_from(source, tmp_path / "data", "minari", *names)
        assert f"below it are {parts[0]}, {parts[1]} and {parts[2]}: name one" in str(caught.value)
    import_from(parts[1], tmp_path / "data", "minari", OFFICIAL_TASKS[0])


@pytest.mark.parametrize(
    ("names", "below"),
    [
        ("a", "is {}/a: name that"),
        ("ab", "are {}/a and {}/b: name one of them"),
        ("abcde", "are {}/a, {}/b, {}/c, {}/d and {}/e: name one of them"),
        ("abcdefgh", "are {}/a, {}/b, {}/c, {}/d, {}/e and 3 more: name one of them"),
    ],
)
def test_datasets_in_a_folder_are_listed_as_in_a_sentence(tmp_path, names, below):
    for name in names:
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "main_data.hdf5").touch()
    with pytest.raises(UserError) as caught:
        import_from(tmp_path, tmp_path / "data", "minari", "reach-v2")
    assert str(caught.value).endswith(f"; below it {below.replace('{}', str(tmp_path))}")


def in_minari(change):
    def apply(folder):
        with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
            change(file["episode_0"], folder)

    return apply


def link_out(episode, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["rewards"] = episode["rewards"][()]
    del episode["rewards"]
    episode["rewards"] = h5py.ExternalLink(str(folder / "other.h5"), "rewards")


def swell(episode, folder):
    del episode["rewards"]
    episode.create_dataset("rewards", (10**9,), "f8", chunks=(1000,))


def fifo_of_metadata(folder):
    (folder / "data" / "metadata.json").unlink()
    os.mkfifo(folder / "data" / "metadata.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_minari(link_out), "'episode_0/rewards' is an external link"),
        (in_minari(swell), "'episode_0/rewards' takes 8,000,000,000 bytes"),
        (fifo_of_metadata, "is a FIFO"),
    ],
    ids=["external link", "bomb", "FIFO"],
)
def test_minari_files_are_read_like_our_own(minari_root, tmp_path, change, message):
    change(minari_root)
    with pytest.raises(UserError, match=message):
        import_from(minari_root, tmp_path / "data", "minari", "walker-walk")


def test_a_file_or_folder_of_one_task_as_source(tmp_path):
    """Of the npz format a task's folder; a single episode is refused with the remedy."""
    import_from(OFFICIAL / "reach-v2", tmp_path / "data", "npz")
    assert list(DatasetIndex.read(tmp_path / "data").tasks) == ["reach-v2"]
    with pytest.raises(UserError, match="expected the folder that holds <task>/<i>.npz"):
        import_from(OFFICIAL / "reach-v2" / "0.npz", tmp_path / "other", "npz")


def test_several_qualities_of_a_task_ask_for_a_choice(tmp_path):
    """The remedies are those of the message: a file as the source, and a joined file."""
    rng, spec = np.random.default_rng(0), get_task("ant-dir-3")
    source = tmp_path / "source"
    source.mkdir()
    parts = {name: episodes(spec, 4, rng) for name in ("expert", "medium", "random")}
    for name, part in parts.items():
        (source / f"ant_dir-3-{name}.pkl").write_bytes(pickle.dumps(part))
    with pytest.raises(UserError) as caught:
        import_from(source, tmp_path / "data", "promptdt")
    for word in (
        "ant_dir-3-expert.pkl and ant_dir-3-medium.pkl",
        "the file itself",
        "To join them",
    ):
        assert word in str(caught.value)
    import_from(source / "ant_dir-3-medium.pkl", tmp_path / "medium", "promptdt")
    (task,) = DatasetStore.open(tmp_path / "medium", ["ant-dir-3"]).tasks
    np.testing.assert_array_equal(
        task.observations[:6], parts["medium"][0]["observations"].astype(np.float32)
    )
    (tmp_path / "ant_dir-3-all.pkl").write_bytes(pickle.dumps(sum(parts.values(), [])))
    index = import_from(tmp_path / "ant_dir-3-all.pkl", tmp_path / "all", "promptdt")
    assert index.tasks["ant-dir-3"].trajectories == 12


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path):
    """Before they are read: memory hardly grows."""
    source = tmp_path / "source" / "reach-v2"
    shutil.copytree(OFFICIAL / "reach-v2", source)
    with zipfile.ZipFile(source / "1.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("observations.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f8", "fortran_order": False, "shape": (2**27,)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(64):
                file.write(bytes(2**24))
    assert (source / "1.npz").stat().st_size < 2**21
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"1\.npz: .*unpacks to 1,073,741,\d+ bytes, more than"):
        import_from(source.parent, tmp_path / "data", "npz")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kB
    assert grown < 100_000


def test_a_tensor_that_repeats_its_values_is_refused(tmp_path):
    """A few bytes of a chunk that stand for terabytes."""
    huge = torch.zeros(1, dtype=torch.int32).expand(10**6, 10**6)
    torch.save(chunk_of(task=huge), tmp_path / "chunk_0.pt")
    with pytest.raises(UserError, match=r"'task' repeats its values to \(1000000, 1000000\)"):
        import_from(tmp_path, tmp_path / "data", "tdmpc2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": torch.zeros(3, 5)}, "'task' holds torch.float32"),
        ({"reward": torch.zeros(3, 5, dtype=torch.complex64)}, "'reward' holds torch.complex64"),
        ({"obs": torch.full((3, 5, 24), 3e38)}, "'observations' holds 3e"),
    ],
)
def test_chunks_of_odd_types(tmp_path, changes, message):
    torch.save(chunk_of(**changes), tmp_path / "chunk_0.pt")
    with pytest.raises(UserError, match=message):
        import_from(tmp_path, tmp_path / "data", "tdmpc2")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("npz", "reach-v2/0.npz"), ("promptdt", "ant_dir-3-expert.pkl"), ("tdmpc2", "chunk_0.pt")],
)
def test_fifos_are_refused_by_every_reader(tmp_path, kind, name):
    path = tmp_path / "source" / name
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a FIFO, not a regular file"):
        import_from(tmp_path / "source", tmp_path / "data", kind)


def test_success_of_some_episodes_only_is_unknown(tmp_path):
    """No rate is made of it, and the file holds zeros."""
    source = tmp_path / "source" / "reach-v2"
    shutil.copytree(OFFICIAL / "reach-v2", source)
    for number in (0, 1):
        arrays = dict(np.load(source / f"{number}.npz"))
        np.savez(source / f"{number}.npz", **{**arrays, "success": np.array(True)})
    index = import_from(source.parent, tmp_path / "data", "npz")
    assert index.tasks["reach-v2"].success_rate is None
    assert not DatasetStore.open(tmp_path / "data", ["reach-v2"]).tasks[0].successes.any()
    assert verify(tmp_path / "data")["problems"] == []
