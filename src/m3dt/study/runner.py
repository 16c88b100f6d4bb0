"""Run the cells of a study.

Each command of a cell runs in a process of its own: a cell that fails does not stop the others,
and an interrupted study continues where it stopped.
"""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic

from rich.console import Console

from m3dt.runs.generations import copy_models
from m3dt.runs.layout import SCORES
from m3dt.study.cell_results import sign_results
from m3dt.study.chains import select_cells
from m3dt.study.grid import IN_A_ROW, Cell, Study
from m3dt.study.journal import noted
from m3dt.study.pieces import (
    EVALUATE,
    EXTEND,
    Command,
    commands_left,
    pieces_of,
    print_pieces,
    shown,
    total,
)
from m3dt.study.score_table import check_table, print_table, scored_cells, write_table
from m3dt.tasks import tasks_of
from m3dt.utils.counts import counted
from m3dt.utils.errors import RunError, UserError


class Clock:
    """The time that a study may take.

    Args:
        minutes: From now on, or None for as long as it takes.
    """

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else monotonic() + 60 * minutes

    def seconds_left(self) -> float | None:
        """Return what is left, or None if there is no end."""
        return None if self._end is None else max(0.0, self._end - monotonic())

    def allows(self, minutes: float | None) -> bool:
        """Tell whether a piece of some estimated minutes fits; an unknown one may begin."""
        left = self.seconds_left()
        return left is None or left > 60 * (minutes or 0.0)


def run_study(
    study: Study,
    file: Path,
    shard: str,
    where: Sequence[str],
    console: Console,
    minutes: float | None = None,
) -> None:
    """Train and evaluate cells, and write the table of all cells that have scores.

    What is finished is not repeated. A cell that is in the table without a run here was evaluated
    elsewhere with the same settings: it is trained only as far as other cells take models from it.

    Args:
        study: The study.
        file: CSV of scores, rewritten after each cell; its JSON files go next to it.
        shard: `i/n` runs the i-th of n parts of the cells, so that n jobs can share a study; a cell
            and those that it builds on are in one part.
        where: `setting=value` or `part=name` words; only cells to which all of them apply run.
        console: Where progress and the table are printed.
        minutes: Time after which nothing goes on: a command whose next piece would not fit is not
            begun, and one that takes longer is stopped, after which its training can resume.

    Raises:
        UserError: `shard` or `where` is malformed, or the table has rows of other settings.
        RunError: Some cells failed; all others have run.
    """
    cells = select_cells(study, shard, where)
    check_table(study, file)
    scored = scored_cells(study, file) & {cell.name for cell in cells}
    if scored:
        console.print(f"{file} holds {len(scored)} of {counted(len(cells), 'cell')} already.")
    failed = _run_commands(study, commands_left(study, cells, file), file, Clock(minutes), console)
    print_table(study, file, console)
    if minutes is not None:
        left = list(pieces_of(commands_left(study, cells, file)))
        ahead = (
            f"; next is {left[0].cell}: {left[0].command}, {shown(left[0])} minutes" if left else ""
        )
        console.print(f"left: {total(left)}{ahead}.")
    if failed:
        names = ", ".join(failed)
        raise RunError(f"{counted(len(failed), 'cell')} failed: {names}. See the messages above.")


def _run_commands(
    study: Study, commands: Iterable[Command], file: Path, clock: Clock, console: Console
) -> list[str]:
    """Run commands while there is time, and return the names of the cells that failed."""
    failed: list[str] = []
    for command in commands:
        name = command.cell.name
        if name in failed:
            continue
        if not clock.allows(next(pieces_of([command])).minutes):
            break
        console.rule(f"{name}: {command.name}", align="left")
        succeeded = _run(study, command, clock)
        if not succeeded and clock.seconds_left() == 0:
            break  # it was stopped
        if not succeeded:
            failed.append(name)
        write_table(study, file)
    return failed


def show_pieces(
    study: Study, file: Path, shard: str, where: Sequence[str], console: Console
) -> None:
    """Print what `run_study` would run, in pieces, with estimates.

    Raises:
        UserError: As `run_study`.
    """
    cells = select_cells(study, shard, where)
    check_table(study, file)
    print_pieces(list(pieces_of(commands_left(study, cells, file))), console)


def _run(study: Study, command: Command, clock: Clock) -> bool:
    """Run a command until its end, or the clock's, and return whether it succeeded."""
    cell = command.cell
    scores = study.runs / cell.name / SCORES
    scores.unlink(missing_ok=True)  # a cell that fails must not keep its old scores
    with noted(study, cell.name, command.name, command.first) as note:
        try:
            if cell.copy:
                copy_models(cell.copy, Path(cell.config.run))
            note.code = _run_words(_words(study, command, scores), clock)
            if command.name == EVALUATE and note.code == 0:
                sign_results(study, cell)
        except UserError as error:  # of this cell; the others go on
            print(f"m3dt: {error}", file=sys.stderr)
            note.code = 2
    return note.code == 0


def _words(study: Study, command: Command, scores: Path) -> list[str]:
    """Return the words of a command; an evaluation writes the file `scores`."""
    cell = command.cell
    if command.name == EXTEND:
        return _extension(cell)
    words = [command.name, "--conf", study.conf, *cell.overrides]
    # A run of this study that does not exist yet has no models to take; any other must exist.
    if cell.reuse and ((cell.reuse / "registry").is_dir() or cell.reuse.parent != study.runs):
        words.append(f"reuse={cell.reuse}")
    if command.name == EVALUATE:
        models = ["--models", ",".join(cell.models)] if cell.models else []
        words += [*cell.evaluated, *models, "--json", str(scores)]
    return words


def _extension(cell: Cell) -> list[str]:
    """Return the command that extends a cell's run by its tasks."""
    own = ("data=", "loader.", "stage2.", "prompt_router.", "callbacks", "trainer.", "plugins=")
    overrides = [word for word in cell.overrides if word.startswith(own)]
    more = ["--one-by-one"] if cell.extend == IN_A_ROW else []
    tasks = ",".join(tasks_of(cell.config))
    return [EXTEND, "--run", cell.config.run, "--tasks", tasks, *more, *overrides]


def _run_words(words: Sequence[str], clock: Clock) -> int:
    """Run a command of m3dt until its end, or the clock's, and return its exit code."""
    process = subprocess.Popen([sys.executable, "-m", "m3dt", *words])
    try:
        process.wait(clock.seconds_left())
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            process.terminate()  # the command saves a checkpoint and exits
            process.wait()
    return process.returncode
