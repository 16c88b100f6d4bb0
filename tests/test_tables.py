"""Tables in terminals of any width: no number and no name is cut."""

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from m3dt.cli import main
from m3dt.utils import console as consoles
from m3dt.utils.whole_tables import whole

WIDTHS = (24, 60, 80, 120, 200)


def table_of(rows=3, models=6):
    table = Table(title="scores", caption="per action", title_justify="left")
    table.add_column("task", no_wrap=True)
    for model in range(models):
        table.add_column(f"M3DT-Gradient\n(router:prompt-{model})", justify="right", no_wrap=True)
    table.add_column("remedy")
    for row in range(rows):
        numbers = [f"{100 / (1 + row + m):.1f} [{m}.5, {90 + row}.5]" for m in range(models)]
        table.add_row(f"button-press-topdown-wall-v2-{row}", *numbers, "run m3dt doctor first")
    return table


def printed(table, width):
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, soft_wrap=True)
    for part in whole(table, console):
        console.print(part)
    return file.getvalue()


def cells_of(table):
    return [str(cell) for column in table.columns for cell in column._cells]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("models", [1, 2, 6])
def test_every_cell_is_whole(width, models):
    table = table_of(models=models)
    text = printed(table, width)
    assert "…" not in text
    for cell in cells_of(table):
        words = cell.split() if cell.startswith("run ") else [cell]
        assert all(word in text for word in words), cell
    lines = text.splitlines()
    if width >= 60:
        assert max(map(len, lines)) <= width
    assert lines[0].strip() == "scores" and lines[-1].strip() == "per action"
    assert text.count("scores") == text.count("per action") == 1


def test_a_table_that_fits_is_left_alone():
    table = table_of(models=1)
    assert [*whole(table, Console(width=200))] == [table]


def test_parts_of_a_table_repeat_its_first_column():
    table = table_of(models=6)
    text = printed(table, 80)
    parts = len(re.findall(r"^┃ task", text, re.MULTILINE))
    assert parts > 1 and text.count("button-press-topdown-wall-v2-0") == parts


def test_texts_wrap_before_a_table_is_split():
    table = table_of(models=1)
    width = len(printed(table, 200).splitlines()[1])
    text = printed(table, width - 8)
    assert text.count("button-press-topdown-wall-v2-0") == 1 and "run m3dt doctor first" not in text


@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_commands_print_whole_tables(width, monkeypatch, capsys, finished):
    made = consoles.make_console

    def make_console(stderr=False):
        console = made(stderr)
        console.width = width or console.width
        return console

    monkeypatch.setattr(consoles, "make_console", make_console)
    for command in (["tasks"], ["registry", str(finished)], ["doctor"]):
        assert main(command) == 0
        text = capsys.readouterr().out
        assert "…" not in text, command
    assert main(["tasks"]) == 0
    squeezed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "button-press-topdown-wall-v2" in squeezed and "reacher-three-hard" in squeezed
