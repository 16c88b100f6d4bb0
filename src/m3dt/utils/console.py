"""Terminal output: the console and its progress bars."""

import io
from typing import Any, TextIO

from rich import progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3dt.utils.whole_tables import whole


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


def progress_bar(console: Console, unit: str) -> progress.Progress:
    """Return a progress bar with rate and time left; it is hidden without a terminal."""
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        RateColumn(unit),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
