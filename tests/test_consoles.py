"""Lines fit the terminal: progress, rules and the help of each command."""

import io
import re

import pytest
from rich.cells import cell_len

from m3dt.cli import main
from m3dt.cli.parser import COMMANDS
from m3dt.utils.console import make_console, progress_bar

LONG = "evaluating router:prompt@episode-1-prompts-0.5"


def console_of(width, terminal=True):
    console = make_console()
    console.file = io.StringIO()
    console._force_terminal = terminal  # what FORCE_COLOR does to a new one
    console.width = width
    return console


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("name", ["evaluating backbone", "evaluating baseline:promptdt", LONG])
def test_a_line_of_progress_fits_the_terminal(width, name):
    console = console_of(width)
    bar = progress_bar(console, "episodes")
    bar.add_task(name, total=1600, completed=1600)
    console.print(bar.make_tasks_table(bar.tasks))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 1 and cell_len(lines[0].rstrip()) <= width
    assert re.search(r"1600/1600.* [-\d]:[-\d]{2}:[-\d]{2}", lines[0])
    whole = len(name) + 20 <= width or (width >= 60 and name is not LONG)
    assert (name in lines[0]) == whole
    assert ("episodes/s" in lines[0]) == (width == 120 or (width == 80 and name is not LONG))


@pytest.mark.parametrize("title", ["seed0: train", "seed0_" * 30])
def test_a_rule_in_a_file_is_as_wide_as_a_terminal_or_its_title(title):
    console = console_of(1000, terminal=False)
    console.rule(title, align="left")
    (line,) = console.file.getvalue().splitlines()
    assert title in line and len(line) == max(80, len(title) + 4)


@pytest.mark.parametrize("command", ["", *(command.name for command in COMMANDS)])
def test_help_fits_eighty_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command.split(), "--help"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []
