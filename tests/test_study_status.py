"""The progress of a study's cells, read from disk while jobs run elsewhere."""

import io
import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console
from test_pieces import made, table_of

from m3dt.cli import main
from m3dt.study import journal, runner
from m3dt.study.journal import noted, read_note
from m3dt.study.pieces import commands_left
from m3dt.study.status import progress, status_table, summary


@pytest.fixture
def study(tmp_path):
    """Two methods that share a backbone, and a baseline."""
    return made(
        tmp_path / "own.yaml",
        f"conf: recipe-gpu\nruns: {tmp_path}/runs\nset: [data={tmp_path}/none]\nparts:\n"
        f"  m3dt:\n    grid: {{method: [m3dt-gradient, m3dt-random]}}\n"
        f"    reuse: {tmp_path}/runs/m3dt-gradient\n    models: [backbone, router]\n"
        f"  baselines:\n    grid: {{method: [promptdt, mtdt, bc]}}\n",
    )


def checkpoint(study, cell, folder, step):
    place = study.runs / cell / "checkpoints" / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / f"step{step}.ckpt").write_bytes(b"not even whole: nothing is opened")
    return place


def register(study, cell, kind, name):
    place = study.runs / cell / "registry" / kind / name
    place.mkdir(parents=True)
    (place / "entry.json").write_text("{}")


def found(study, file):
    return {cell.cell: cell for cell in progress(study, file)}


def everything(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def test_each_state_is_told_from_what_is_on_disk(study, tmp_path, monkeypatch):
    file = table_of(tmp_path / "own.csv", [c for c in study.cells if c.name == "bc"])
    checkpoint(study, "m3dt-gradient", "stage1", 10_000)
    with noted(study, "m3dt-gradient", "stage1", 0) as stage:
        register(study, "promptdt", "baseline", "promptdt")
        with noted(study, "mtdt", "train", 0) as note:
            note.code = 2
        before = everything(tmp_path)
        cells = found(study, file)
        assert everything(tmp_path) == before
        stage.code = 143
    assert {name: cell.state for name, cell in cells.items()} == {
        "m3dt-gradient": "running", "m3dt-random": "waiting", "promptdt": "trained",
        "mtdt": "failed", "bc": "evaluated",
    }  # fmt: skip
    running = cells["m3dt-gradient"]
    assert (running.command, running.step, running.steps) == ("stage1", 10_000, 40_000)
    assert cells["mtdt"].code == 2 and cells["promptdt"].command == "evaluate"
    assert cells["m3dt-random"].minutes > 1 and not cells["m3dt-random"].more
    assert (cells["bc"].command, cells["bc"].minutes) == ("", 0)
    assert found(study, file)["m3dt-gradient"].state == "stopped"  # its job has ended


def test_a_job_without_a_sign_of_life_is_stopped(study, tmp_path, monkeypatch):
    file = tmp_path / "own.csv"
    monkeypatch.setattr(journal, "_BEAT", 0.01)
    with noted(study, "mtdt", "train", 0):
        note = study.runs / journal.NOTES / "mtdt.json"
        os.utime(note, (0, 0))
        deadline = time.monotonic() + 20
        while not note.stat().st_mtime and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found(study, file)["mtdt"].state == "running"
        text = note.read_text()
    note.write_text(text)  # as a job leaves it that was killed
    os.utime(note, (0, time.time() - 600))
    assert found(study, file)["mtdt"].state == "stopped"
    note.write_text("{half")
    assert read_note(study, "mtdt") is None and found(study, file)["mtdt"].state == "waiting"


def test_a_training_outside_a_study_runs_while_it_saves(study, tmp_path):
    place = checkpoint(study, "bc", "bc", 20_000)
    assert found(study, tmp_path / "own.csv")["bc"].state == "running"
    os.utime(place, (0, time.time() - 3600))
    cell = found(study, tmp_path / "own.csv")["bc"]
    assert (cell.state, cell.step) == ("stopped", 20_000)


def test_minutes_left_are_measured_where_a_training_runs(study, tmp_path):
    """A quarter of the steps took 10 minutes until now: the rest takes 30."""
    place = checkpoint(study, "mtdt", "mtdt", 20_000)
    with noted(study, "mtdt", "train", 0):
        note = study.runs / journal.NOTES / "mtdt.json"
        now = time.time()
        os.utime(place, (0, now))
        content = {**json.loads(note.read_text()), "began": now - 600}
        note.write_text(json.dumps(content))
        cell = found(study, tmp_path / "own.csv")["mtdt"]
    evaluating = commands_left(study, study.cells, tmp_path / "own.csv")[-1].duration
    assert cell.minutes == pytest.approx(30 + sum(evaluating) / 60, rel=0.05)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_is_whole(study, tmp_path, width):
    """Also where a name is longer than a line."""
    long = made(
        tmp_path / "long.yaml",
        f"runs: {tmp_path}/runs\ngrid:\n  seed: [0]\n  baseline.learning_rate: [1.0e-3]\n"
        "  method: [promptdt]\n  tasks: [[push-v2, window-close-v2, cup-catch, cheetah-run]]\n",
    )
    for cells in (progress(long, tmp_path / "l.csv"), progress(study, tmp_path / "own.csv")):
        console = Console(file=io.StringIO(), width=width)
        console.print(status_table(cells))
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width and "…" not in console.file.getvalue()
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines[4:-1]]
        names = "".join(row[0] for row in rows)
        assert names == "".join(cell.cell for cell in cells)
        assert [row[1] for row in rows if row[1]] == [cell.state for cell in cells]
    assert "5 cells: 5 waiting. Left, on one machine: about" in summary(cells)


def test_a_table_of_other_settings_is_told(study, tmp_path, capsys):
    """The study would not begin with it."""
    file = table_of(tmp_path / "own.csv", [c for c in study.cells if c.name == "bc"])
    (cell,) = (c for c in study.cells if c.name == "bc")
    file.write_text(file.read_text().replace(cell.key, "another"))
    words = ["study", str(tmp_path / "own.yaml"), "--csv", str(file), "--status"]
    assert main(words) == 2
    assert "1 cell was made with other settings" in capsys.readouterr().err
    file.write_text(file.read_text().replace(cell.name, "removed"))
    assert main(words) == 2
    assert "1 cell is not of this study, for example removed" in capsys.readouterr().err


def test_the_command_prints_a_table_or_json(study, tmp_path, capsys):
    words = ["study", str(tmp_path / "own.yaml"), "--csv", str(tmp_path / "own.csv"), "--status"]
    assert main([*words, "--where", "part=baselines"]) == 0
    shown = capsys.readouterr().out
    assert "train, 0 of 80,000" in shown and "3 cells: 3 waiting" in shown
    assert main([*words, "--shard", "1/4", "--json", "-"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)
    assert (cell["cell"], cell["state"], cell["steps"]) == ("promptdt", "waiting", 80_000)
    assert not study.runs.exists()
    assert main([*words, "--dry-run"]) == 2
    assert "give one of --dry-run and --status" in capsys.readouterr().err
    assert main(["study", "paper", "--json", "-"]) == 2
    assert "give --status too" in capsys.readouterr().err


def test_a_study_notes_what_it_runs(study, monkeypatch):
    """While a command runs, and how it ended: by an error, the clock or a signal."""
    command = commands_left(study, study.cells, study.runs.parent / "own.csv")[0]
    seen = []

    def run(words, clock):
        seen.append(read_note(study, command.cell.name))
        return codes.pop()

    codes = [0, -15, 143, 2, -9]
    monkeypatch.setattr(runner, "_run_words", run)
    ended = []
    while codes:
        succeeded = runner._run(study, command, runner.Clock(None))
        note = read_note(study, command.cell.name)
        ended.append((succeeded, note.failed, note.running))
    assert all(note.running and note.command == "stage1" for note in seen)
    assert ended == [(False, True, False)] * 2 + [(False, False, False)] * 2 + [
        (True, False, False)
    ]


@pytest.mark.parametrize(
    ("end", "code", "failed"),
    [
        (SystemExit(143), 143, False),
        (KeyboardInterrupt(), 130, False),
        (SystemExit("what went wrong"), 1, True),
        (OSError("no space left on device"), 1, True),
    ],
    ids=repr,
)
def test_how_a_job_ends_is_noted(study, end, code, failed):
    """By a signal it may go on later; an error is a failure."""
    with pytest.raises(type(end)), noted(study, "bc", "train", 0):
        raise end
    note = read_note(study, "bc")
    assert (note.code, note.failed, note.running) == (code, failed, False)


def test_a_cell_may_begin_from_a_run_that_the_study_has_yet_to_make(tmp_path):
    """Such cells are listed, and fail alone if the run is still missing when they begin."""
    study = made(
        tmp_path / "own.yaml",
        f"runs: {tmp_path}/runs\nparts:\n"
        f"  first:\n    grid: {{method: [promptdt]}}\n"
        f"  tuned:\n    grid: {{seed: [0], method: [promptdt]}}\n"
        f"    set: ['init_from={tmp_path}/runs/promptdt']\n"
        f"  copied:\n    grid: {{seed: [1], tasks: [[push-v2]]}}\n    extend: together\n"
        f"    copy: {tmp_path}/runs/seed0_promptdt\n",
    )
    left = commands_left(study, study.cells, tmp_path / "own.csv")
    assert [c.name for c in left] == [
        "train",
        "evaluate",
        "train",
        "evaluate",
        "extend",
        "evaluate",
    ]
    assert not runner._run(study, left[4], runner.Clock(None))
    note = read_note(study, left[4].cell.name)
    assert note.failed and note.command == "extend"
    assert not Path(left[4].cell.config.run).exists()
