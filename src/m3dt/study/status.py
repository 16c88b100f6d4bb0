"""The progress of a study's cells, from what their runs hold: nothing is locked or written."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from m3dt.runs.generations import is_extended
from m3dt.runs.registry import Registry
from m3dt.study.chains import select_cells
from m3dt.study.grid import Cell, Study
from m3dt.study.journal import Note, read_note
from m3dt.study.pieces import EVALUATE, EXTEND, Command, commands_left, pieces_of
from m3dt.study.score_table import check_rows, scored_cells
from m3dt.tasks import tasks_of
from m3dt.training import trainings
from m3dt.training.resume import newest_step
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError
from m3dt.utils.output_files import check_output, output_json

STATES = ("evaluated", "trained", "running", "stopped", "failed", "waiting")
_SILENCE = 900.0  # seconds without a checkpoint after which a training outside a study is stopped


@dataclass(frozen=True)
class Progress:
    """Where a cell is.

    Attributes:
        cell: Its name.
        state: One of `STATES`.
        command: What runs, failed, or is next; empty if nothing is left.
        step: Optimiser steps of the command that are saved.
        steps: Optimiser steps of the command in all, or the most environment steps.
        minutes: What is left of the cell, as far as it can be estimated.
        more: Whether there is more to it that nobody can estimate.
        host: Where the command runs or ran last, as far as a study ran it.
        code: The exit code of a command that failed.
    """

    cell: str
    state: str
    command: str = ""
    step: int = 0
    steps: int = 0
    minutes: float = 0.0
    more: bool = False
    host: str = ""
    code: int | None = None


def show_status(
    study: Study,
    file: Path,
    shard: str,
    where: Sequence[str],
    json_file: Path | None,
    console: Console,
) -> None:
    """Print where each cell is, and write it as JSON.

    Raises:
        UserError: `shard` or `where` is malformed, a file cannot be written or read, or the table
            has rows of other settings or cells, with which the study would not begin.
    """
    if json_file:
        check_output(json_file)
    check_rows(study, file)
    chosen = {cell.name for cell in select_cells(study, shard, where)}
    found = [cell for cell in progress(study, file) if cell.cell in chosen]
    if json_file:
        output_json(json_file, [asdict(cell) for cell in found])
    console.print(status_table(found))
    console.print(summary(found))


def progress(study: Study, file: Path) -> list[Progress]:
    """Return where each cell of a study is."""
    scored = scored_cells(study, file)
    left: dict[str, list[Command]] = {cell.name: [] for cell in study.cells}
    for command in commands_left(study, study.cells, file, _steps_saved):
        left[command.cell.name].append(command)
    return [_progress(study, cell, left[cell.name], cell.name in scored) for cell in study.cells]


def _progress(study: Study, cell: Cell, left: Sequence[Command], scored: bool) -> Progress:
    note = read_note(study, cell.name)
    state = _state(cell, left, scored, note)
    if not left:
        return Progress(cell.name, state)
    current, now = left[0], time.time()
    own = note if note and note.command == current.name else None
    minutes = [piece.minutes for piece in pieces_of(left[1:])]
    measured = _measured(cell, current, own, now) if state == "running" else None
    minutes += [p.minutes for p in pieces_of([current])] if measured is None else [measured]
    known = [value for value in minutes if value is not None]
    host, code = (own.host, own.code if state == "failed" else None) if own else ("", None)
    more = len(known) < len(minutes)
    size = (current.first, current.last)
    return Progress(cell.name, state, current.name, *size, round(sum(known), 1), more, host, code)


def _state(cell: Cell, left: Sequence[Command], scored: bool, note: Note | None) -> str:
    if note and note.running:
        return "running"
    if scored:
        return "evaluated"
    names, run = [command.name for command in left], Path(cell.config.run)
    if note and note.failed and note.command in names[:1]:
        return "failed"
    begun = (run / "checkpoints").is_dir() or (run / "registry").is_dir()
    if not begun:
        return "stopped" if note else "waiting"
    if names == [EVALUATE]:
        return "trained"
    lately = time.time() - _last_saved(cell, names[0]) < _SILENCE
    return "running" if lately and not note else "stopped"


def _folders(cell: Cell, command: str) -> list[Path]:
    """Return the folders of a training's checkpoints: one, or one per shard of stage 2."""
    jobs = trainings(cell.config)
    if command not in jobs:
        return []
    name, all_of_them = jobs[command].checkpoints(cell.config), Path(cell.config.run, "checkpoints")
    found = [all_of_them / name, *all_of_them.glob(f"{name}-*-of-*")]
    return [folder for folder in found if folder.is_dir()]


def _last_saved(cell: Cell, command: str) -> float:
    """Return when a training wrote a checkpoint last, or 0."""
    times = [0.0]
    for folder in _folders(cell, command):
        with suppress(FileNotFoundError):  # the training has just ended
            times.append(folder.stat().st_mtime)
    return max(times)


def _steps_saved(cell: Cell, command: str) -> int | None:
    """Return the steps of a training by names of files alone, or None if it is finished."""
    run = Path(cell.config.run)
    if command == EXTEND:
        try:
            return None if is_extended(run, tasks_of(cell.config)) else 0
        except UserError:  # it is changing, or damaged, which the command will say
            return 0
    job, registry = trainings(cell.config)[command], Registry(run)
    if all(registry.has(job.kind, name) for name in job.models(cell.config)):
        return None
    return min((newest_step(folder) for folder in _folders(cell, command)), default=0)


def _measured(cell: Cell, current: Command, note: Note | None, now: float) -> float | None:
    """Return the minutes left of a training that runs, by its own speed so far."""
    saved = _last_saved(cell, current.name)
    done = current.first - note.step if note else 0
    if not note or done <= 0 or saved <= note.began:
        return None
    per_step = (saved - note.began) / done
    return max(0.0, (current.last - current.first) * per_step - (now - saved)) / 60


def status_table(cells: Sequence[Progress]) -> Table:
    """Lay out the progress of cells; long names go on in the next line."""
    table = Table(title="cells", title_justify="left")
    table.add_column("cell", overflow="fold")
    for column in ("state", "command"):
        table.add_column(column, no_wrap=True)
    table.add_column("minutes left", justify="right")
    for cell in cells:
        table.add_row(cell.cell, cell.state, _command(cell), _minutes(cell))
    return table


def _command(cell: Progress) -> str:
    if cell.code is not None:
        return f"{cell.command}, exit code {cell.code}"
    if cell.command in ("", EVALUATE, EXTEND):
        return cell.command
    return f"{cell.command}, {cell.step:,} of {cell.steps:,}"


def _minutes(cell: Progress) -> str:
    if not cell.command:
        return ""
    known = f"{ceil(cell.minutes)}" if cell.minutes else ""
    return known + ("?" if cell.more and not known else "+" if cell.more else "")


def summary(cells: Sequence[Progress]) -> str:
    """Return in words how many cells are in which state, and what is left."""
    states = [cell.state for cell in cells]
    counts = ", ".join(f"{states.count(s)} {s}" for s in STATES if s in states)
    minutes, more = sum(cell.minutes for cell in cells), any(cell.more for cell in cells)
    parts = [f"about {counted(ceil(minutes), 'minute')}"] if minutes else []
    parts += ["what nobody can estimate"] if more else []
    left = " and ".join(parts) or "nothing"
    return f"{counted(len(cells), 'cell')}: {counts or 'none'}. Left, on one machine: {left}."
