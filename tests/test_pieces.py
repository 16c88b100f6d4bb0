"""A study in pieces: what is left, in which order, how long, and where it stops."""

import csv
import io
import itertools
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from m3dt.cli import main
from m3dt.config import load_config
from m3dt.study import durations, load_study, pieces, runner
from m3dt.study.durations import Duration, line, slowdown, step_seconds, training_duration
from m3dt.study.grid import TOGETHER
from m3dt.study.pieces import Command, commands_left, pieces_of, total
from m3dt.study.step_times import MEASURED, START, Measured
from m3dt.tasks import suite
from m3dt.utils.errors import RunError

ROOT = Path(__file__).resolve().parents[1]


def made(path, text):
    path.write_text(text)
    return load_study(path, [])


@pytest.fixture
def study(tmp_path):
    """Two methods that share a backbone, and a baseline."""
    return made(
        tmp_path / "own.yaml",
        f"conf: recipe-gpu\nruns: {tmp_path}/runs\nset: [data={tmp_path}/none]\nparts:\n"
        f"  m3dt:\n    grid: {{method: [m3dt-gradient, m3dt-random]}}\n"
        f"    reuse: {tmp_path}/runs/m3dt-gradient\n    models: [backbone, router]\n"
        f"  baselines:\n    grid: {{method: [promptdt]}}\n",
    )


def table_of(file, cells):
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["cell", "settings", "title", "score", "low", "high", "parameters"])
        writer.writerows([c.name, c.key, c.name, 50, "", "", 1] for c in cells)
    return file


def names(commands):
    return [(command.cell.name, command.name) for command in commands]


STAGES = ("stage1", "stage2", "stage3", "evaluate")


def test_commands_follow_the_study(study, tmp_path):
    """Each cell's trainings, then its evaluation; a shared backbone is trained once."""
    left = commands_left(study, study.cells, tmp_path / "own.csv")
    assert names(left) == [
        *itertools.product(["m3dt-gradient", "m3dt-random"], STAGES),
        ("promptdt", "train"), ("promptdt", "evaluate"),
    ]  # fmt: skip
    assert left[0].duration.work > 60 and left[4].duration == Duration(START, 0)
    assert left[5].duration.work == left[1].duration.work  # groups differ, so do experts
    steps = [(command.first, command.last) for command in left]
    horizons = 4 * (80 * 500 + 80 * 200)
    assert steps[:4] == [(0, 40_000), (0, 8000), (0, 2000), (0, 2 * horizons)]
    assert steps[-1] == (0, horizons)


def test_scored_cells_train_only_what_others_take(study, tmp_path):
    file = table_of(tmp_path / "own.csv", study.cells[::2])
    left = commands_left(study, study.cells, file)
    assert names(left) == [("m3dt-gradient", "stage1"), *(("m3dt-random", s) for s in STAGES)]
    others = commands_left(study, study.cells[1:], file)  # the source is another job's
    assert names(others) == names(left)[1:] and others[0].duration.work > 60
    assert commands_left(study, study.cells, table_of(file, study.cells)) == []


@pytest.mark.parametrize(
    ("finished", "expected"),
    [
        ((), ["stage1", "stage2"]),
        (("stage1",), ["stage1", "stage2"]),  # the source's experts build on its backbone
        (("stage1", "stage2"), []),
    ],
)
def test_a_source_trains_what_a_cell_lacks(tmp_path, monkeypatch, finished, expected):
    study = made(
        tmp_path / "own.yaml",
        f"conf: recipe-gpu\nruns: {tmp_path}/runs\nreuse: {tmp_path}/runs/m3dt-gradient_prompt\n"
        "grid: {method: [m3dt-gradient], moe.router: [prompt, token]}\n",
    )
    source, cell = study.cells
    done = {(cell.name, name) for name in finished}
    monkeypatch.setattr(
        pieces, "_steps_taken", lambda c, name: None if (c.name, name) in done else 0
    )
    file = table_of(tmp_path / "own.csv", [source])
    own = [name for name in STAGES if name not in finished]
    assert names(commands_left(study, study.cells, file)) == [
        *((source.name, name) for name in expected),
        *((cell.name, name) for name in own),
    ]


def test_a_training_goes_on_from_its_checkpoint(study, tmp_path):
    folder = tmp_path / "runs/m3dt-gradient/checkpoints/stage1"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "step30000.ckpt", "w") as archive:
        archive.writestr("data", "0")
    whole = commands_left(study, study.cells[1:], tmp_path / "own.csv")[0]
    rest = commands_left(study, study.cells, tmp_path / "own.csv")[0]
    assert (rest.name, rest.first, rest.last) == ("stage1", 30_000, 40_000)
    assert rest.duration.work == pytest.approx(whole.duration.work / 4)


def command(study, work, start=0.0, name="stage1", last=100):
    duration = None if work is None else Duration(60.0 * start, 60.0 * work)
    return Command(study.cells[0], name, 0, last, duration)


def test_commands_are_cut_into_pieces(study):
    """None is longer than nine minutes; each begins with the start."""
    parts = list(pieces_of([command(study, 20, start=1), command(study, 3), command(study, None)]))
    assert [(p.first, p.last) for p in parts] == [(0, 33), (33, 67), (67, 100), (0, 100), (0, 100)]
    assert [p.minutes for p in parts] == pytest.approx([1 + 20 / 3] * 3 + [3, None])
    assert total(parts) == "5 pieces, about 26 minutes and 1 of unknown length"
    slow = list(pieces_of([command(study, 2, start=30)]))
    assert [p.minutes for p in slow] == [31, 31]  # a start that alone is too long ends all the same
    assert total([]) == "no pieces"


def ran(study, monkeypatch, commands, minutes, failing=()):
    """Run commands that take their estimates, or 4 minutes; return what ran and what was said."""
    now, done, console = [0.0], [], Console(file=io.StringIO(), width=200)

    def run(study, command, clock):
        left, took = clock.seconds_left(), sum(command.duration or (0, 240))
        now[0] += took if left is None else min(took, left)
        done.append(command.name)
        return (left is None or took < left) and command.name not in failing

    left = [list(commands)]
    monkeypatch.setattr(runner, "monotonic", lambda: now[0])
    monkeypatch.setattr(runner, "_run", run)
    monkeypatch.setattr(
        runner, "commands_left", lambda *_: [c for c in left[0] if c.name not in done]
    )
    monkeypatch.setattr(runner, "print_table", lambda *_: None)
    file = study.runs.parent / "own.csv"
    runner.run_study(study, file, "0/1", "", console, minutes)
    return done, console.file.getvalue()


@pytest.mark.parametrize(
    ("works", "minutes", "expected"),
    [
        ([3, 3, 3], 7, ["a", "b"]),  # the third would not fit
        ([3, 8, 1], 8, ["a"]),  # nor does what follows it run before it
        ([3, 3, 3], 9.5, ["a", "b", "c"]),
        ([3, 3, 3], None, ["a", "b", "c"]),
        ([None, 3], 5, ["a"]),
        ([None, None, 1], 6, ["a", "b"]),  # the second is stopped by the clock
        ([30, 3], 10, ["a"]),  # a piece of it fits, and it goes on until the clock stops it
    ],
)
def test_a_study_stops_where_the_next_piece_would_not_fit(
    study, monkeypatch, works, minutes, expected
):
    commands = [command(study, work, name=name) for work, name in zip(works, "abc", strict=False)]
    done, said = ran(study, monkeypatch, commands, minutes)
    assert done == expected
    left = len(works) - len(expected)
    if minutes is not None:
        assert "left: no pieces." in said if not left else "next is m3dt-gradient: " in said


def test_a_failing_cell_is_left_behind(study, monkeypatch):
    commands = [command(study, 1, name="a"), command(study, 1, name="b")]
    with pytest.raises(RunError, match="1 cell failed: m3dt-gradient"):
        ran(study, monkeypatch, commands, 9, failing=["a"])


def test_the_clock_ends_a_command_as_a_signal_does(study, monkeypatch, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"open({str(tmp_path / 'began')!r}, 'w').close()\ntime.sleep(60)\n"
    )
    started, popen = [], subprocess.Popen

    def start(words):
        started.append(popen([sys.executable, script]))
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    clock = runner.Clock(0.2 / 60)
    assert not runner._run(study, command(study, 1), clock)
    assert started[0].returncode == 128 + signal.SIGTERM and clock.seconds_left() == 0


def test_lines_go_through_what_was_measured():
    """Also where another kind's compiled steps, or only one size, were timed."""
    table = (
        Measured("backbone", 0, 10, True, 2.0, ""), Measured("backbone", 0, 30, True, 4.0, ""),
        Measured("backbone", 0, 10, False, 3.0, ""), Measured("experts", 4, 100, True, 21.0, ""),
        Measured("router", 4, 10, True, 5.0, ""), Measured("router", 4, 10, False, 10.0, ""),
        Measured("router", 4, 20, False, 16.0, ""),
    )  # fmt: skip
    assert line("backbone", table) == pytest.approx((1.0, 0.1))
    assert line("experts", table) == pytest.approx((1.0, 0.2))
    assert line("router", table) == pytest.approx((2.0, 0.3))  # (4 + 0.6 segments) / 2
    assert [slowdown(kind, table) for kind in ("backbone", "experts", "router")] == [1.5, 1.5, 2]


@pytest.mark.parametrize("row", MEASURED, ids=lambda r: f"{r.kind}-{r.segments}-{r.compiled}")
def test_estimates_repeat_what_was_measured(row):
    config = load_config("recipe-gpu", [f"moe.num_experts={row.experts or 1}"])
    found = step_seconds(config, row.kind, row.segments, row.compiled)
    assert found == pytest.approx(row.seconds)


@pytest.mark.parametrize(
    ("overrides", "launches", "slopes"),
    [
        (["model.n_layer=12"], 2, 2),
        (["model.n_embd=512"], 1, 4),
        (["model.mlp_width=2048"], 1, 5 / 3),  # 4 + 2 * 8 parts of width^2 instead of 12
        (["model.context_length=40", "model.prompt_length=40"], 1, 2),
    ],
)
def test_estimates_scale_with_the_model(overrides, launches, slopes):
    launch, slope = line("backbone")
    found = step_seconds(load_config("recipe-gpu", overrides), "backbone", 128, True)
    assert found == pytest.approx(launches * launch + 128 * slopes * slope)


def test_experts_behind_a_router_cost_in_proportion():
    times = [
        step_seconds(load_config("recipe-gpu", [f"moe.num_experts={e}"]), "router", 64, True)
        for e in (20, 40, 80)
    ]
    assert times[2] - times[1] == pytest.approx(2 * (times[1] - times[0]))


@pytest.mark.parametrize(
    "override", ["trainer.accelerator=auto", "trainer.precision=32-true", "trainer.devices=2"]
)
def test_nothing_is_estimated_without_a_basis(override):
    config = load_config("recipe-gpu", [override])
    assert training_duration(config, "stage1", 10) is None
    assert durations.evaluation_duration(config, ["backbone"]) is None


def test_the_recipe_fits_into_twenty_minutes():
    """With its data (161 s were measured), and on memory slower by the ratio of the two cards."""
    config = load_config("recipe-gpu")
    steps = {"stage1": config.stage1, "stage2": config.stage2, "stage3": config.prompt_router}
    found = [training_duration(config, name, own.max_steps) for name, own in steps.items()]
    found.append(durations.evaluation_duration(config, ["backbone", "oracle", "router"]))
    assert 161 + sum(start + 4.8 / 3.35 * work for start, work in found) < 20 * 60


def test_the_paper_study_is_listed(capsys, tmp_path):
    """In pieces of at most nine minutes, with all methods and sizes of table 1."""
    file = tmp_path / "paper.yaml"
    text = (ROOT / "conf/study/paper.yaml").read_text()
    file.write_text(text.replace("seed: [0, 1, 2]", "seed: [0]"))  # a third of the time
    assert main(["study", str(file), "--dry-run", "--csv", str(tmp_path / "paper.csv")]) == 0
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in shown.splitlines()[4:-2]]
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    minutes = [float(row[4]) for row in rows]
    assert max(minutes) <= 9
    assert f"{len(rows)} pieces, about" in shown and "estimates" in shown
    assert float(shown.split("about ")[1].split()[0]) == pytest.approx(sum(minutes), abs=15)
    cells = {row[1] for row in rows}
    for tasks, method in itertools.product(
        (10, 80, 160), ("promptdt", "mtdt", "harmodt", "bc", "m3dt-random", "m3dt-gradient")
    ):
        assert f"seed0_mt{tasks}_{method}" in cells
    assert list(tmp_path.iterdir()) == [file]


def test_ways_to_run_a_study_exclude_each_other(capsys):
    assert main(["study", "paper", "--dry-run", "--minutes", "9"]) == 2
    assert "give one of --dry-run and --minutes" in capsys.readouterr().err
    assert main(["study", "paper", "--minutes", "5"]) == 2
    assert "--minutes 5: a piece takes up to 9 minutes" in capsys.readouterr().err


def test_an_extension_holds_out_what_its_cell_says():
    """Otherwise 5 trajectories per task are fewer than the copied run would hold out."""
    cells = load_study(ROOT / "conf/study/extend.yaml", []).cells
    (cell, *_) = (cell for cell in cells if cell.extend == TOGETHER)
    words = runner._extension(cell)
    assert "loader.validation_trajectories=0" in words and "data=data/new5" in words
    assert any(word.startswith("callbacks=") for word in words)
    assert not any(word.startswith(("run=", "moe.", "baseline.")) for word in words)


def test_a_study_may_build_on_runs_that_do_not_exist_yet(monkeypatch, tmp_path, capsys):
    """Its own first cells make them: fine-tuning begins from them, copies are extended."""
    monkeypatch.chdir(tmp_path)
    lines = (ROOT / "conf/study/paper-extend.yaml").read_text().splitlines()
    of_tasks = [line for line in lines if line.startswith("        - [")]
    file = tmp_path / "paper-extend.yaml"
    file.write_text("\n".join(line for line in lines if line not in of_tasks[1:]))
    study = load_study(file, [])
    cells = study.cells
    chosen = {cell.part: cell for cell in cells if cell.values["seed"] == "0"}
    some = [chosen["agent"], chosen["expert"], chosen["tuned"]]
    left = [(c.cell.part, c.name) for c in commands_left(study, some, tmp_path / "none.csv")]
    assert ("expert", "extend") in left and ("tuned", "train") in left
    words = runner._extension(chosen["expert"])
    assert words[words.index("--tasks") + 1].split(",") == list(suite("h25", 0))
    assert max(len(cell.name) for cell in cells) < 100
