"""Terminal output: the console and its progress bars."""

import io
from typing import Any, TextIO

from rich import progress
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


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
    """Raises an error when its reader has gone, where rich would end the process silently."""

    def on_broken_pipe(self) -> None:
        raise  # the error that is being handled


def make_console(stderr: bool = False) -> Console:
    """Return a console that prints words as they are, also a folder called `d[bold]`.

    Its tables are whole in files and pipes. It prints to the standard error stream where a
    result goes to the standard output.
    """
    console = _Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000  # a file or a pipe has no width: tables are as wide as their content
    return console


def show_table(console: Console, table: Table) -> None:
    """Print a table whose numbers and names are whole at any width.

    Where it is wider than the console, it is split: each part begins with the first column. A
    console too narrow even for that gets the rows one after the other, a line per cell. Only
    columns with a `max_width` are wrapped, between words.
    """
    last = len(table.columns)
    parts: list[Table] = []
    first = 1
    while first < last or not parts:
        stop = min(first + 1, last)
        while stop < last and _width(console, _part(table, first, stop + 1)) <= console.width:
            stop += 1
        parts.append(_part(table, first, stop))
        first = stop
    _print_words(console, table.title)
    if all(_width(console, part) <= console.width for part in parts):
        for part in parts:
            console.print(part)
    else:
        _print_records(console, table)
    _print_words(console, table.caption)


def _part(table: Table, first: int, stop: int) -> Table:
    """Return a table of the first column and of those from `first` up to `stop`."""
    part = Table(box=table.box, pad_edge=table.pad_edge, padding=table.padding)
    chosen = [table.columns[0], *table.columns[first:stop]]
    for column in chosen:
        limit = column.max_width
        wraps: dict[str, Any] = {"max_width": limit, "overflow": "fold"} if limit else {}
        part.add_column(column.header, justify=column.justify, no_wrap=not limit, **wraps)
    cells = zip(*(column.cells for column in chosen), strict=True)
    for row, values in zip(table.rows, cells, strict=True):
        part.add_row(*values, style=row.style, end_section=row.end_section)
    return part


def _width(console: Console, table: Table) -> int:
    """Return the width of a table that has all the room that it wants."""
    return Measurement.get(console, console.options.update(width=100_000), table).maximum


def _print_records(console: Console, table: Table) -> None:
    headers = [" ".join(str(column.header).split()) for column in table.columns]
    for values in zip(*(column.cells for column in table.columns), strict=True):
        name, *others = (" ".join(str(value).split()) for value in values)
        _print_words(console, name or headers[0])
        for header, value in zip(headers[1:], others, strict=True):
            if value:
                _print_words(console, f"  {header}: {value}")


def _print_words(console: Console, text: object) -> None:
    """Print text with line breaks between words only: a long name is not cut."""
    if text:
        console.print(str(text), soft_wrap=False, overflow="ignore", crop=False)


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
