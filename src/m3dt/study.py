"""Studies: a grid of settings, each cell trained and evaluated once, one table of results.

Cells run as commands of their own, so that one that fails takes no other with it, and a study that
was interrupted goes on where it stopped.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from m3dt.config import load_config, read_yaml
from m3dt.errors import RunError, UserError, nearest
from m3dt.files import atomic_path
from m3dt.tasks import DOMAINS

SCORES = "scores.json"  # of a cell, in its run
_KEYS = ("conf", "runs", "reuse", "set", "grid", "only")


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    Attributes:
        name: Its values, joined; the run's folder.
        values: Setting to value, as the grid has them.
        overrides: Everything that is given to the commands, the run's folder included.
    """

    name: str
    values: dict[str, str]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """What a study file says."""

    conf: str
    runs: Path
    cells: tuple[Cell, ...]


def load_study(path: Path, overrides: Sequence[str]) -> Study:
    """Read a study and check the configuration of each of its cells.

    The file holds `conf`, a configuration; `grid`, lists of values by setting; and, as wanted,
    `set`, overrides of all cells, `only`, overrides of the cells that have a value, `runs`, the
    folder of their runs, and `reuse`, another run to take what is shared from.

    Raises:
        UserError: The file cannot be read, or a cell's configuration is wrong.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Studies are in conf/study/.")
    content: Any = OmegaConf.to_container(read_yaml(path))
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{path}: unknown key '{key}'.{nearest(key, _KEYS)}")
    grid, only = content.get("grid"), content.get("only") or {}
    if not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
        raise UserError(f"{path}: 'grid' must give a list of values for each setting")
    values = [str(value) for listed in grid.values() for value in listed]
    for value, own in only.items():
        if value not in values or not isinstance(own, list):
            raise UserError(
                f"{path}: 'only' gives lists of overrides by values of the grid; '{value}' is none"
                f"{nearest(str(value), values)}"
            )
    conf = str(content.get("conf", "quickstart"))
    runs = Path(content.get("runs") or f"runs/{path.stem}")
    shared = [*map(str, content.get("set") or []), *overrides]
    if content.get("reuse"):
        shared.insert(0, f"reuse={content['reuse']}")
    cells = []
    for point in itertools.product(*grid.values()):
        chosen = {setting: str(value) for setting, value in zip(grid, point, strict=True)}
        name = "_".join(value.replace("/", "-") for value in chosen.values())
        own = [str(o) for value in chosen.values() for o in only.get(value, [])]
        given = [f"{setting}={value}" for setting, value in chosen.items()]
        cell = Cell(name, chosen, (*shared, *given, *own, f"run={runs / name}"))
        load_config(conf, cell.overrides)
        cells.append(cell)
    return Study(conf, runs, tuple(cells))


def run_study(study: Study, file: Path, shard: str, console: Console) -> None:
    """Train and evaluate the cells, and write the table of all that have results.

    Cells that are finished say so in seconds.

    Args:
        study: The study.
        file: CSV of results, written anew after each cell.
        shard: `i/n` runs every n-th cell from the i-th on, for jobs that share a study.
        console: Where progress and the table go.

    Raises:
        UserError: The shard is not of that form.
        RunError: Cells failed; the others have run.
    """
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"--shard {shard}: must read i/n with 0 <= i < n, such as 0/4")
    failed = []
    for cell in study.cells[int(index) :: int(count)]:
        console.rule(cell.name, align="left")
        scores = study.runs / cell.name / SCORES
        scores.unlink(missing_ok=True)  # else a cell that fails would keep what it was before
        for command in (["train"], ["evaluate", "--json", str(scores)]):
            words = [command[0], "--conf", study.conf, *cell.overrides, *command[1:]]
            if subprocess.run([sys.executable, "-m", "m3dt", *words]).returncode:
                failed.append(cell.name)
                break
        _write(file, study)
    console.print(_table(study))
    if failed:
        raise RunError(
            f"{len(failed)} cells failed: {', '.join(failed)}. See their messages above."
        )


def results(study: Study) -> list[dict[str, Any]]:
    """Return a row for every cell that has been evaluated: its values, scores and sizes."""
    rows = []
    for cell in study.cells:
        file = study.runs / cell.name / SCORES
        if not file.is_file():
            continue
        found = json.loads(file.read_text())
        low, high = found["ci95"]
        rows.append(
            {
                **cell.values,
                "title": found["method"],
                "score": round(found["score"], 2),
                "low": round(low, 2),
                "high": round(high, 2),
                **{d: round(found["domains"].get(d, float("nan")), 2) for d in DOMAINS},
                "parameters": found["num_parameters"],
                "episodes": found["episodes"],
            }
        )
    return rows


def _write(file: Path, study: Study) -> None:
    rows = results(study)
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_path(file) as temporary:
        temporary.write_text(text.getvalue())


def _table(study: Study) -> Table:
    table = Table(title="normalized score [95 % interval]", title_justify="left")
    rows = results(study)
    domains = [d for d in DOMAINS if any(row[d] == row[d] for row in rows)]  # not nan
    for column in ("method", "mean over tasks", *domains, "parameters"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        mean = f"{row['score']:.1f} [{row['low']:.0f}, {row['high']:.0f}]"
        scores = [f"{row[d]:.1f}" for d in domains]
        table.add_row(row["title"], mean, *scores, f"{row['parameters']:,}")
    return table
