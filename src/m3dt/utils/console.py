"""Terminal output: the console and its progress bars."""

import io
from collections.abc import Iterable
from typing import Any, TextIO

from rich import progress
from rich.cells import cell_len
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text, TextType

from m3dt.utils.whole_tables import whole

_RULE = 80  # width of a rule where there is no terminal


class RateColumn(progress.ProgressColumn):
    """Shows the rate in units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: progress.Task) -> Text:
        rate = task.finished_speed or task.speed or 0.0
        return Text(f"{rate:.1f} {self.unit}/s", style="cyan")


def replace_unprintable(*streams: TextIO) -> None:
    """Have streams print `?` for what their encoding lacks, such as an umlaut in ASCII."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class _Console(Console):
    """Shows tables whole; raises an error when its reader has gone, where rich would exit."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects as rich does, but no part of a table is ever cut; see `whole`."""
        if len(objects) == 1 and isinstance(objects[0], Table):
            for part in whole(objects[0], self):
                super().print(part, **options)
        else:
            super().print(*objects, **options)

    def rule(self, title: TextType = "", **options: Any) -> None:
        """Draw a rule as rich does; without a terminal it is no wider than `_RULE` or its title."""
        width = None if self.is_terminal else max(_RULE, cell_len(str(title)) + 4)
        self.print(Rule(title, **options), width=width)

    def on_broken_pipe(self) -> None:
        raise  # the error that is being handled


def make_console(stderr: bool = False) -> Console:
    """Return a console that prints words as they are, also a folder called `d[bold]`.

    Its tables are whole in files and pipes. It prints to the standard error stream where a
    result goes to the standard output.
    """
    console = _Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 1000  # a file or a pipe has no width: tables are as wide as their content
    return console


class _Progress(progress.Progress):
    """Progress bars whose lines fit the terminal: parts are left out until they do."""

    def __init__(self, unit: str, console: Console) -> None:
        name = progress.TextColumn("{task.description}", markup=False)
        done, rate = progress.MofNCompleteColumn(), RateColumn(unit)
        elapsed, left = progress.TimeElapsedColumn(), progress.TimeRemainingColumn()
        times = (elapsed, progress.TextColumn("left"), left)
        short = progress.TextColumn("{task.fields[short]}", markup=False)
        self._layouts: tuple[tuple[progress.ProgressColumn, ...], ...] = (
            (name, progress.BarColumn(), done, rate, *times),
            (name, progress.BarColumn(12), done, rate, *times),
            (name, done, rate, *times),
            (name, done, *times),
            (name, done, left),
            (short, done, left),
        )
        self._terminal = console  # `console` is set only after the first layout
        super().__init__(*self._layouts[0], console=console, disable=not console.is_terminal)

    def make_tasks_table(self, tasks: Iterable[progress.Task]) -> Table:
        """Lay out the lines, one per task."""
        tasks = list(tasks)
        for task in tasks:
            task.fields["short"] = _shortened(task.description, self._terminal.width // 2)
        wide = self._terminal.options.update_width(1000)
        for layout in self._layouts:
            self.columns = layout
            table = super().make_tasks_table(tasks)
            if table.__rich_measure__(self._terminal, wide).maximum <= self._terminal.width:
                break
        return table


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def progress_bar(console: Console, unit: str) -> progress.Progress:
    """Return a progress bar with rate and time left; it is hidden without a terminal."""
    return _Progress(unit, console)
