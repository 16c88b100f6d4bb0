"""Tables on consoles of several widths: no number and no name is shortened."""

import io
import os
import re
import subprocess
import sys

import pytest
from rich.table import Table
from test_registry import entry, save_backbone

from m3dt.cli.evaluation_table import score_table
from m3dt.cli.registry_table import show_registry
from m3dt.evaluation.run_scores import ModelScore
from m3dt.runs import Registry
from m3dt.runs.evaluations import Evaluation
from m3dt.study.paired import compare
from m3dt.tasks import suite
from m3dt.utils.console import make_console

PIPED = 10_000
WIDTHS = (60, 80, 120, 200, PIPED)
TASKS = ("button-press-topdown-wall-v2", "walker-walk", "ant-dir-6")
MODELS = ("random", "backbone", "expert:2", "router:prompt@episode-1-prompts-0.5", "router", "even")


def result(number, episodes=3):
    interval = [7.0, 9.25] if episodes > 1 else None
    scores = {"score": 0.7 + number, "ci95": interval}
    costs = {"num_parameters": 1_234_567 + number, "flops_per_action": 2e9, "ms_per_action": 1.5}
    domains = {"metaworld": 1.0, "dmcontrol": 2.0}
    about = {"method": f"M3DT-Gradient {number}", "episodes": episodes, "seed": 0, "weights": "w"}
    tasks = dict.fromkeys(TASKS, scores)
    return {**about, **scores, **costs, "tasks": tasks, "domains": domains}


@pytest.fixture(params=WIDTHS)
def console(request):
    """A console of a width, whose output is in `file`; the last one is as wide as a pipe's."""
    made = make_console()
    made.file, made.width = io.StringIO(), request.param
    return made


def printed(console, *whole):
    """Return the output, in which each word of the cells must be whole."""
    text = console.file.getvalue()
    assert "…" not in text and "..." not in text
    for words in whole:
        for word in words.split():
            assert re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.])", text), word
    drawn = [line for line in text.splitlines() if line[:1] in "┏┃┡│├└"]
    assert all(len(line) <= console.width for line in drawn)
    return text


def test_scores_of_many_models_are_whole(console):
    scores = [ModelScore(name, result(i), False) for i, name in enumerate(MODELS)]
    console.print(score_table(scores))
    methods = [f"M3DT-Gradient {i}" for i in range(len(MODELS))]
    numbers = [f"{0.7 + i:.1f}" for i in range(len(MODELS))]
    sizes = [f"{1_234_567 + i:,}" for i in range(len(MODELS))]
    text = printed(console, *TASKS, *methods, *numbers, *sizes, "2,000.00", "[7.0, 9.2]")
    assert all(f"({name})" in text for name in MODELS)
    assert text.count("normalized score") == 1
    if console.width == PIPED:
        assert sum(line.startswith("│ walker-walk ") for line in text.splitlines()) == 1


def test_a_single_episode_has_no_interval():
    console = make_console()
    console.file = io.StringIO()
    console.print(score_table([ModelScore("router", result(0, episodes=1), False)]))
    row = next(line for line in console.file.getvalue().splitlines() if "walker-walk" in line)
    assert row.split()[3:-1] == ["0.7", "(n", "=", "1)"]


def test_a_console_too_narrow_for_two_columns_gets_lines(console):
    table = Table("a", "wide", title="title " * 20, caption="caption")
    table.add_row("row" * 10, "x" * 45)
    console.print(table)
    text = console.file.getvalue()
    assert "row" * 10 in text and "x" * 45 in text and text.count("title") == 20
    assert (f"  wide: {'x' * 45}\n" in text) == (console.width <= 80)


def test_the_list_of_a_runs_models_is_whole_and_has_scores(console, tmp_path):
    registry = Registry(tmp_path / "run")
    backbone = save_backbone(registry)
    expert = entry("expert", "0", [backbone])
    saved = registry.save(expert, {"w": backbone_tensor()})
    scores = {**result(41), "weights": saved.hash}
    Evaluation.now("expert:0", "k0", scores).write(registry.run)
    Evaluation.now("expert:0@prompts-0.5", "k1", {**scores, "score": 99.9}).write(registry.run)
    (registry.run / "evaluation" / "router.json").write_text("{}")  # of an earlier version
    show_registry(registry.run, None, console)
    text = printed(console, "expert/0", "backbone/main", "41.7", "[7.0, 9.2]", saved.hash[:8])
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", text) and re.search(r"[\d.]+ k?B", text)
    assert "99.9" not in text and "router.json: left out" in " ".join(text.split())


def backbone_tensor():
    import torch

    return torch.zeros(3, 4)


def test_comparisons_are_whole(console, tmp_path):
    for number, name in enumerate(("router:prompt", "backbone", "baseline:promptdt")):
        Evaluation.now(name, f"k{number}", result(number)).write(tmp_path)
    compare([tmp_path], [], "backbone", 1.0, None, console)
    printed(console, "router-prompt", "backbone", "baseline-promptdt", "1.7", "2.7", "2,000.0")


@pytest.mark.parametrize("width", [60, 80, 120, 200, 0])
def test_tasks_are_listed_whole_in_a_terminal_and_in_a_pipe(width):
    terminal = {"FORCE_COLOR": "1", "COLUMNS": str(width)} if width else {"COLUMNS": "60"}
    command = [sys.executable, "-m", "m3dt", "tasks", "mt160"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **terminal}
    )
    shown = re.sub(r"\x1b\[[\d;]*m", "", done.stdout)
    assert "…" not in shown
    assert {task for task in suite("mt160") if task in shown.split()} == set(suite("mt160"))
    table = [line for line in shown.splitlines() if line[:1] in "┏┃│└"]
    assert all(len(line) <= (width or PIPED) for line in table)
    assert "paper's single-task score" in shown
