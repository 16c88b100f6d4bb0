"""Run the cells of a study.

Cells run as commands of their own, so that one that fails takes no other with it, and a study that
was interrupted goes on where it stopped.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from m3dt.study.cells import SCORES, Cell, Study
from m3dt.study.results import check_table, results, show, write_results
from m3dt.utils.errors import RunError, UserError


def run_study(study: Study, file: Path, shard: str, where: str, console: Console) -> None:
    """Train and evaluate the cells, and write the table of all that have results.

    Cells that are finished say so in seconds. A cell that the table holds, made with the same
    settings elsewhere, needs no run here; it is trained alone where others want its models.

    Args:
        study: The study.
        file: CSV of results, written anew after each cell; curves go beside it.
        shard: `i/n` runs a part of the cells, for n jobs that share a study; cells that share
            models are not parted.
        where: `setting=value` runs the cells that have this value alone; empty runs all.
        console: Where progress and the table go.

    Raises:
        UserError: `shard` or `where` is not of that form, or the table has other settings' rows.
        RunError: Cells failed; the others have run.
    """
    failed = []
    mine = share(study, shard, where)
    check_table(study, file)
    held = known(study, mine, file)
    wanted = {cell.reuse.name for cell in mine if cell.reuse and cell.name not in held}
    if held:
        console.print(f"{file} holds {len(held)} of {len(mine)} cells already.")
    for cell in mine:
        if cell.name in held - wanted:
            continue
        console.rule(cell.name, align="left")
        if not _run(study, cell, scored=cell.name in held):
            failed.append(cell.name)
        write_results(study, file)
    show(study, file, console)
    if failed:
        raise RunError(
            f"{len(failed)} cells failed: {', '.join(failed)}. See their messages above."
        )


def share(study: Study, shard: str, where: str = "") -> list[Cell]:
    """Return the cells of a shard that have a value."""
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"--shard {shard}: must read i/n with 0 <= i < n, such as 0/4")
    setting, _, value = where.partition("=")
    cells = [c for c in study.cells if not where or c.values.get(setting) == value]
    if not cells:
        raise UserError(f"--where {where}: no cell of the study has that. Give setting=value.")
    chains = list(dict.fromkeys(cell.chain for cell in cells))
    mine = chains[int(index) :: int(count)]
    return [cell for cell in cells if cell.chain in mine]


def known(study: Study, cells: Sequence[Cell], file: Path) -> set[str]:
    """Return the cells that the table holds, evaluated elsewhere."""
    listed = {row["cell"] for row in results(study, file)}
    here = {cell.name for cell in cells if (study.runs / cell.name / SCORES).is_file()}
    return {cell.name for cell in cells} & listed - here


def _run(study: Study, cell: Cell, scored: bool) -> bool:
    """Train a cell and evaluate it, unless it has its scores; return whether both succeeded."""
    scores = study.runs / cell.name / SCORES
    scores.unlink(missing_ok=True)  # else a cell that fails would keep what it was before
    overrides = list(cell.overrides)
    # A run of this study that no job has begun holds nothing to take; any other must be there.
    if cell.reuse and (cell.reuse.is_dir() or cell.reuse.parent != study.runs):
        overrides.append(f"reuse={cell.reuse}")
    models = ["--models", ",".join(cell.models)] if cell.models else []
    evaluation = [] if scored else [["evaluate", *models, "--json", str(scores)]]
    for command in (["train"], *evaluation):
        words = [command[0], "--conf", study.conf, *overrides, *command[1:]]
        process = subprocess.Popen([sys.executable, "-m", "m3dt", *words])
        try:
            process.wait()
        finally:
            if process.poll() is None:
                process.terminate()  # it saves a checkpoint and leaves
                process.wait()
        if process.returncode:
            return False
    return True
