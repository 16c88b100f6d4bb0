"""Several processes collect one dataset in shards; it is that of a single process."""

import re
import shlex
import threading
from dataclasses import replace

import pytest
from conftest import write_dataset
from quick_run import QUICK, TASKS, call, kill_after
from started import Command

from m3dt.cli import main
from m3dt.data.collect import _add_to_shared
from m3dt.data.format import DatasetIndex
from m3dt.utils.errors import UserError
from m3dt.utils.files import sole_writer
from m3dt.utils.shared_writers import common_file, shared_writer

ROUND = ("reach-v2", "ant-dir-6")  # the tasks of shard 0/2


def words(folder, shard, *more):
    return ["collect", *QUICK, f"data={folder}", "collect.workers=1", "--shard", shard, *more]


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_shards_at_the_same_time_equal_one_process(data, tmp_path):
    """Two processes start together; files, index and leftovers are those of one process."""
    folder = tmp_path / "new/data"
    running = [Command(words(folder, f"{i}/2")) for i in range(2)]
    codes = [process.wait() for process in running]
    said = [process.output for process in running]
    assert codes == [0, 0], said
    assert sum("so are all others" in text for text in said) in (1, 2)
    assert contents(folder) == contents(data)


def test_a_killed_shard_is_named_and_goes_on(data, tmp_path, capsys):
    """Its finished task is kept, and the other shard neither waits for it nor touches it."""
    folder = tmp_path / "data"
    kill_after(words(folder, "0/2"), (folder / "dataset.json").exists)
    first = (folder / "reach-v2.hdf5").stat()
    assert set(DatasetIndex.read(folder).tasks) == {"reach-v2"}
    half = folder / ".ant-dir-6.hdf5.01234567.tmp"
    half.write_bytes(b"half")

    assert main(words(folder, "1/2")) == 0
    assert "1 task of other shards is missing: ant-dir-6." in capsys.readouterr().out
    assert call("stage1", tmp_path / "run", folder) == 2
    message = capsys.readouterr().err
    assert "the dataset lacks 1 of 3 tasks: ant-dir-6." in message
    (remedy,) = re.findall("run `m3dt (collect --conf quickstart .*)`", message)
    assert set(shlex.split(remedy)) >= {*QUICK, f"data={folder}", "collect.seed=0"}
    assert "shards" in message

    assert main(words(folder, "0/2")) == 0
    assert (folder / "reach-v2.hdf5").stat() == first
    assert contents(folder) == contents(data)
    assert main(words(folder, "0/2")) == 0
    assert "all 2 tasks of shard 0/2: nothing to collect" in capsys.readouterr().out
    assert main(words(folder, "8/9")) == 0
    assert "no task is of shard 8/9: nothing to collect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shard", "refusal"),
    [
        ("0/2", "another m3dt is writing reach-v2 here: the same shard"),
        ("2/3", "another m3dt is writing ant-dir-6 here"),
        ("0/1", "another m3dt is writing here"),
    ],
)
def test_what_another_process_collects_is_refused(tmp_path, capsys, shard, refusal):
    with shared_writer(tmp_path / "data", ROUND):
        assert main(words(tmp_path / "data", shard)) == 2
        assert refusal in capsys.readouterr().err
        assert not list((tmp_path / "data").glob("*.hdf5"))


def test_shards_wait_only_for_a_moment_for_who_writes_the_whole_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("m3dt.utils.shared_writers._PATIENCE", 0.2)
    with sole_writer(tmp_path):
        with pytest.raises(UserError, match="another m3dt is writing here, all of it"):
            shared_writer(tmp_path, ROUND).__enter__()
        opened = threading.Thread(target=lambda: shared_writer(tmp_path, ROUND).__enter__())
        monkeypatch.setattr("m3dt.utils.shared_writers._PATIENCE", 20)
        opened.start()
        opened.join(0.3)
        assert opened.is_alive()
    opened.join(20)
    assert not opened.is_alive()


def test_the_last_writer_tidies_up(tmp_path):
    """What others write meanwhile is spared."""
    half = tmp_path / ".cup-catch.hdf5.01234567.tmp"
    with shared_writer(tmp_path, ["cup-catch"]):
        half.write_bytes(b"half")
        with shared_writer(tmp_path, ["reach-v2"]):
            pass
        assert half.exists() and (tmp_path / ".locks").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_an_index_that_many_write_holds_all_of_them(tmp_path):
    """In one order, whichever is first: that of a single process."""
    source = write_dataset(tmp_path / "source", TASKS)
    entries, folder = DatasetIndex.read(source).tasks, tmp_path / "data"
    for own in ("own-b", "own-a", "own-c"):
        entries[own] = replace(entries["reach-v2"], file=f"{own}.hdf5")

    def write(name):
        _add_to_shared(folder, DatasetIndex({}, {"m3dt": "1"}), name, entries[name])

    with shared_writer(folder, list(entries)):
        writers = [threading.Thread(target=write, args=(name,)) for name in reversed(entries)]
        with common_file(folder):
            for writer in writers:
                writer.start()
            assert not (folder / "dataset.json").exists()
        for writer in writers:
            writer.join(60)
    index = DatasetIndex.read(folder)
    assert list(index.tasks) == ["own-a", "own-b", "own-c", *TASKS]
    assert index.versions == {"m3dt": "1"} and index.tasks == entries


def test_other_settings_than_those_of_another_shard_are_refused(data, tmp_path, capsys):
    index = DatasetIndex.read(data)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "reach-v2.hdf5").write_bytes((data / "reach-v2.hdf5").read_bytes())
    DatasetIndex({"reach-v2": index.tasks["reach-v2"]}, index.versions).write(folder)
    assert main(words(folder, "1/2", "collect.seed=3")) == 2
    assert "contains reach-v2 with 6 trajectories and seed 0" in capsys.readouterr().err


def test_a_malformed_shard_is_refused(tmp_path, capsys):
    assert main(words(tmp_path / "data", "2/2")) == 2
    assert "--shard 2/2: must read i/n" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
