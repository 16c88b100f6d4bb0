"""Files that a user names for output, and files that several processes share."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import write_dataset

from m3dt.cli import main
from m3dt.study import load_study
from m3dt.study.score_table import check_table
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, remove_temporaries, temporary_name
from m3dt.utils.output_files import check_output, output_json, write_output


def test_a_pipe_is_written_through(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    check_output(pipe)
    output_json(pipe, {"score": 1})
    reader.join(timeout=30)
    assert [json.loads(text) for text in read] == [{"score": 1}]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_stays_a_device(tmp_path):
    """A terminal: no test may come near a device that others need."""
    ours, terminal = os.openpty()
    link = tmp_path / "terminal"
    link.symlink_to(os.ttyname(terminal))
    write_output(link, "text")
    assert os.read(ours, 10) == b"text"
    assert link.is_symlink() and stat.S_ISCHR(link.stat().st_mode)


@pytest.mark.parametrize("name", ["-", "link", "/dev/fd/1"])
def test_the_standard_output_is_written_in_order(name, tmp_path):
    """Also where it leads to a file, which must be neither replaced nor cut."""
    script = (
        "from pathlib import Path; from m3dt.utils.output_files import write_output\n"
        f"print('first'); write_output(Path({name!r}), 'second\\n'); print('third')"
    )
    (tmp_path / "link").symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    file = tmp_path / "out"
    with file.open("w") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True, cwd=tmp_path)
    assert file.read_text().split() == ["first", "second", "third"]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "link"}


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_output(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"


def test_a_new_folder_is_made_for_a_new_file(tmp_path):
    file = tmp_path / "a" / "b" / "scores.json"
    check_output(file)
    assert not file.parent.exists()
    output_json(file, [1])
    assert json.loads(file.read_text()) == [1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "is a folder"),
        ("/", "is a folder"),
        ("file/scores.json", "cannot be written"),
        (300 * "x", "cannot be written .File name too long"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_work(name, message, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        check_output(tmp_path / name)
    with pytest.raises(UserError, match=message):
        write_output(tmp_path / name, "")


@pytest.mark.parametrize(
    "command",
    [
        ["verify", "nowhere"],
        ["describe", "nowhere"],
        ["registry", "nowhere"],
        ["bench", "--rows", "stages"],
        ["evaluate", "--conf", "quickstart", "run=nowhere"],
    ],
)
def test_every_command_refuses_a_folder_first(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--json", str(tmp_path)]) == 2
    assert "is a folder. Give the name of a file." in capsys.readouterr().err


def test_a_printed_result_is_alone_on_the_standard_output(tmp_path, capsys):
    folder = write_dataset(tmp_path / "data", ["reach-v2"])
    assert main(["describe", str(folder), "--json", "-"]) == 0
    told = capsys.readouterr()
    assert list(json.loads(told.out)) == ["reach-v2"] and "quartiles" in told.err


@pytest.mark.parametrize("name", ["-", "pipe"])
def test_a_table_of_a_study_must_be_a_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("grid: {seed: [0]}\n")
    study = load_study(Path("own.yaml"), [])
    os.mkfifo("pipe")
    with pytest.raises(UserError, match="Give a file"):
        check_table(study, Path(name))


def test_the_longest_name_that_a_disk_takes_can_be_written(tmp_path):
    file = tmp_path / (250 * "x")
    with atomic_path(file) as temporary:
        temporary.write_text("whole")
    assert file.read_text() == "whole"


def test_a_clock_that_is_ahead_removes_nothing_that_lives(tmp_path, monkeypatch):
    """Ages are taken from the disk's clock, which also gave the files their times."""
    fresh, old = temporary_name(tmp_path / "fresh"), temporary_name(tmp_path / "old")
    filling, left = temporary_name(tmp_path / "filling"), temporary_name(tmp_path / "left")
    for folder in (filling, left):
        folder.mkdir()
        (folder / "weights").touch()
    fresh.touch()
    old.touch()
    now = time.time()
    for path in (old, left, left / "weights", filling):  # a file in `filling` is new
        os.utime(path, (now - 7200, now - 7200))
    monkeypatch.setattr(time, "time", lambda: now + 7200)
    remove_temporaries(tmp_path, older_than=3600)
    assert {path for path in tmp_path.iterdir()} == {fresh, filling}
