"""Terminal output: the console and its progress bars."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """Shows the rate in units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed or 0.0
        return Text(f"{rate:.1f} {self.unit}/s", style="cyan")


def make_console() -> Console:
    """Return a console; its tables keep a readable width in log files."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 120  # else rich squeezes tables into 80 columns
    return console


def progress_bar(console: Console, unit: str) -> Progress:
    """Return a progress bar with rate and time left; it is hidden without a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
