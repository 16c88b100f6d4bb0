"""Run the cells of a study.

Each cell runs its commands in processes of their own: a cell that fails does not stop the others,
and an interrupted study continues where it stopped.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from m3dt.study.grid import SCORES, Cell, Study
from m3dt.study.score_table import check_table, print_table, table_rows, write_table
from m3dt.utils.errors import RunError, UserError


def run_study(study: Study, file: Path, shard: str, where: str, console: Console) -> None:
    """Train and evaluate cells, and write the table of all cells that have scores.

    Finished cells take seconds. A cell that is in the table without a run here was evaluated
    elsewhere with the same settings: it is trained only if other cells take models from it.

    Args:
        study: The study.
        file: CSV of scores, rewritten after each cell; its JSON files go next to it.
        shard: `i/n` runs the i-th of n parts of the cells, so that n jobs can share a study; cells
            that share models are in one part.
        where: `setting=value` runs the cells with this value only; empty runs all.
        console: Where progress and the table are printed.

    Raises:
        UserError: `shard` or `where` is malformed, or the table has rows of other settings.
        RunError: Some cells failed; all others have run.
    """
    cells = select_cells(study, shard, where)
    check_table(study, file)
    scored = scored_elsewhere(study, cells, file)
    sources = {cell.source_run for cell in cells if cell.name not in scored}
    if scored:
        console.print(f"{file} holds {len(scored)} of {len(cells)} cells already.")
    failed = []
    for cell in cells:
        if cell.name in scored - sources:
            continue
        console.rule(cell.name, align="left")
        if not _run_cell(study, cell, evaluate=cell.name not in scored):
            failed.append(cell.name)
        write_table(study, file)
    print_table(study, file, console)
    if failed:
        names = ", ".join(failed)
        raise RunError(f"{len(failed)} cells failed: {names}. See their messages above.")


def select_cells(study: Study, shard: str, where: str = "") -> list[Cell]:
    """Return the cells of a shard that have a value.

    Raises:
        UserError: `shard` or `where` is malformed, or no cell has the value.
    """
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"--shard {shard}: must read i/n with 0 <= i < n, such as 0/4")
    setting, _, value = where.partition("=")
    cells = [c for c in study.cells if not where or c.values.get(setting) == value]
    if not cells:
        raise UserError(f"--where {where}: no cell of the study has that. Give setting=value.")
    sources = list(dict.fromkeys(cell.source_run for cell in cells))[int(index) :: int(count)]
    return [cell for cell in cells if cell.source_run in sources]


def scored_elsewhere(study: Study, cells: Sequence[Cell], file: Path) -> set[str]:
    """Return the names of the cells that are in the table but have no scores here."""
    listed = {row["cell"] for row in table_rows(study, file)}
    here = {cell.name for cell in cells if (study.runs / cell.name / SCORES).is_file()}
    return {cell.name for cell in cells} & listed - here


def _run_cell(study: Study, cell: Cell, evaluate: bool) -> bool:
    """Train a cell, evaluate it on request, and return whether all commands succeeded."""
    scores = study.runs / cell.name / SCORES
    scores.unlink(missing_ok=True)  # a cell that fails must not keep its old scores
    overrides = list(cell.overrides)
    # A run of this study that does not exist yet has no models to take; any other must exist.
    if cell.reuse and (cell.reuse.is_dir() or cell.reuse.parent != study.runs):
        overrides.append(f"reuse={cell.reuse}")
    if not _run_command("train", "--conf", study.conf, *overrides):
        return False
    models = ["--models", ",".join(cell.models)] if cell.models else []
    options = [*models, "--json", str(scores)]
    return not evaluate or _run_command("evaluate", "--conf", study.conf, *overrides, *options)


def _run_command(*words: str) -> bool:
    """Run an m3dt command in a process of its own and return whether it succeeded."""
    process = subprocess.Popen([sys.executable, "-m", "m3dt", *words])
    try:
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()  # the command saves a checkpoint and exits
            process.wait()
    return process.returncode == 0
