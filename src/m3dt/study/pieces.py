"""What is left of a study: the commands of its cells in order, cut into pieces of minutes.

A piece fits into a call of nine minutes on a machine that may be lost afterwards. A longer training
has several: stopped by a signal, it saves a checkpoint and goes on from there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from m3dt.runs.generations import is_extended
from m3dt.study.durations import (
    Duration,
    environment_steps,
    evaluation_duration,
    training_duration,
)
from m3dt.study.grid import NOT_AT_ALL, Cell, Study
from m3dt.study.score_table import scored_cells
from m3dt.study.step_times import START
from m3dt.tasks import tasks_of
from m3dt.training import steps_taken, trainings
from m3dt.utils.counts import counted
from m3dt.utils.files import fingerprint

EVALUATE, EXTEND = "evaluate", "extend"
LONGEST_PIECE = 9  # minutes
_LONGEST = 60 * LONGEST_PIECE - 30.0  # seconds of a piece; the rest is for saving
_LEAST = 60.0  # seconds of steps in a piece, however long its start takes


@dataclass(frozen=True)
class Command:
    """A command of m3dt that a cell still needs.

    Attributes:
        cell: The cell.
        name: `stage1`, `stage2`, `stage3`, `train`, `extend` or `evaluate`.
        first: Optimiser steps that are done; 0 for an evaluation.
        last: Optimiser steps in all, or environment steps.
        duration: The estimate of what is left, or None without a basis.
    """

    cell: Cell
    name: str
    first: int
    last: int
    duration: Duration | None


@dataclass(frozen=True)
class Piece:
    """A part of a command: its steps, and its estimated minutes or None."""

    cell: str
    command: str
    first: int
    last: int
    minutes: float | None


def commands_left(
    study: Study,
    cells: Sequence[Cell],
    file: Path,
    steps_of: Callable[[Cell, str], int | None] | None = None,
) -> list[Command]:
    """Return the commands that some cells of a study still need, in the order in which they run.

    A cell with a row in the table needs none, unless another cell here would take models from it
    that its run does not hold. `steps_of` tells the steps that a command of a cell has done, or
    None if it is finished; by default, models and checkpoints are read and checked.
    """
    steps_of = steps_of or _steps_taken
    scored = scored_cells(study, file)
    chosen = {cell.name for cell in cells}
    pending = {cell.name: cell for cell in cells if cell.name not in scored}
    sources = {cell.source_run for cell in pending.values()}
    involved = [cell for cell in study.cells if cell.name in pending or cell.name in sources]
    identities = {cell.name: _identities(cell) for cell in involved}
    taken = {(c, name): steps_of(cell, name)
             for c, cell in pending.items() for name in identities[c]}  # fmt: skip
    wanted = {place for cell in pending.values() for place in _copies(cell, identities, taken)}
    left, held = [], set()  # commands; models that runs have or will have by then
    for cell in involved:
        for name, identity in identities[cell.name].items():
            if (cell.name, name) not in taken:
                if (cell.name, identity) not in wanted:
                    continue
                taken[cell.name, name] = steps_of(cell, name)
            steps = taken[cell.name, name]
            if steps is not None and cell.name in chosen:
                copied = (cell.source_run, identity) in held
                left.append(_training(cell, name, steps, copied))
            if steps is None or cell.name in chosen:
                held.add((cell.name, identity))
        if cell.name in pending:
            left.append(_evaluation(cell))
    return left


def _copies(
    cell: Cell,
    identities: Mapping[str, Mapping[str, str]],
    taken: Mapping[tuple[str, str], int | None],
) -> list[tuple[str, str]]:
    """Return the models that a cell lacks and its source can make, with those they build on."""
    own, source = identities[cell.name], identities.get(cell.source_run, {}).values()
    names = list(own)
    while names and (taken[cell.name, names[-1]] is None or own[names[-1]] not in source):
        names.pop()
    return [(cell.source_run, own[name]) for name in names]


def _steps_taken(cell: Cell, command: str) -> int | None:
    if command == EXTEND:
        return None if is_extended(Path(cell.config.run), tasks_of(cell.config)) else 0
    return steps_taken(cell.config, trainings(cell.config)[command])


def _training(cell: Cell, name: str, steps: int, copied: bool) -> Command:
    if name == EXTEND:
        added = len(tasks_of(cell.config))
        return Command(cell, name, 0, added * cell.config.stage2.max_steps, None)
    last: int = getattr(cell.config, trainings(cell.config)[name].section).max_steps
    duration = training_duration(cell.config, name, last - steps)
    if duration and copied:
        duration = Duration(START, 0.0)
    return Command(cell, name, steps, last, duration)


def _evaluation(cell: Cell) -> Command:
    steps = environment_steps(cell.config) * max(1, len(cell.models))
    return Command(cell, EVALUATE, 0, steps, evaluation_duration(cell.config, cell.models))


def _identities(cell: Cell) -> dict[str, str]:
    """Return what identifies the models of each training of a cell, by command.

    Cells with the same identity would make the same models, and those that they build on.
    """
    config, identity, found = cell.config, cell.config.data, {}
    if cell.copy:
        return {} if cell.extend == NOT_AT_ALL else {EXTEND: f"{EXTEND} {cell.key}"}
    alone = replace(config, init_from="")  # the run to begin from may not exist yet
    for name, job in trainings(config).items():
        if job.models(config):
            made = [identity, config.init_from, job.settings_of(alone)]
            identity = found[name] = fingerprint(made)
    return found


def pieces_of(commands: Iterable[Command]) -> Iterator[Piece]:
    """Cut commands into pieces; those that nobody can estimate stay whole."""
    for command in commands:
        first, last, duration = command.first, command.last, command.duration
        if duration is None:
            yield Piece(command.cell.name, command.name, first, last, None)
            continue
        count = max(1, ceil(duration.work / max(_LEAST, _LONGEST - duration.start)))
        ends = [first + round(i * (last - first) / count) for i in range(count + 1)]
        minutes = (duration.start + duration.work / count) / 60
        for begin, end in zip(ends, ends[1:], strict=False):
            yield Piece(command.cell.name, command.name, begin, end, minutes)


def total(pieces: Sequence[Piece]) -> str:
    """Return how many pieces there are, and their estimated time, in words."""
    known = [piece.minutes for piece in pieces if piece.minutes is not None]
    unknown = len(pieces) - len(known)
    parts = [f"about {counted(round(sum(known)), 'minute')}"] if known else []
    parts += [f"{unknown} of unknown length"] if unknown else []
    return f"{counted(len(pieces), 'piece')}, " + " and ".join(parts) if pieces else "no pieces"


def shown(piece: Piece) -> str:
    """Return a piece's estimated minutes in words."""
    return "?" if piece.minutes is None else f"{piece.minutes:.1f}"


def print_pieces(pieces: Sequence[Piece], console: Console) -> None:
    """Print pieces in order, with their estimates and the total."""
    table = Table("", "cell", "command", "steps", "minutes", title="pieces left")
    for number, piece in enumerate(pieces, 1):
        steps = f"{piece.first:,} to {piece.last:,}"
        table.add_row(str(number), piece.cell, piece.command, steps, shown(piece))
    console.print(table)
    console.print(
        f"{total(pieces)}. Minutes are estimates for one card, from step times in "
        "m3dt/study/step_times.py, not measurements. Evaluations count environment steps."
    )
