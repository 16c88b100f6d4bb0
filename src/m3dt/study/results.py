"""What a study has found: a table of scores, each task's scores, and curves of conflict."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from statistics import pstdev
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.table import Table

from m3dt.runs.registry import ENTRY
from m3dt.study.cells import SCORES, Cell, Study
from m3dt.tasks import DOMAINS
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, check_writable, write_json


def write_results(study: Study, file: Path) -> None:
    """Write the scores of all evaluated cells; beside them each task's, and conflict curves.

    Jobs that share a table write it one after the other.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        _write(study, file)


def check_table(study: Study, file: Path) -> None:
    """Refuse a table whose rows were made with other settings, which would be lost.

    Raises:
        UserError: It is one.
    """
    check_writable(file)
    kept = {row["cell"] for row in results(study, file)}
    known = {cell.name for cell in study.cells}
    lost = [row["cell"] for row in _table(file) if row.get("cell") in known - kept]
    if lost:
        raise UserError(
            f"{file}: {len(lost)} cells were made with other settings, {lost[0]} for one. "
            "Give --csv FILE for a table of its own, or delete this one."
        )


def _write(study: Study, file: Path) -> None:
    rows = results(study, file)
    if not rows:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for name, find in (("conflict", _curves), ("tasks", _tasks)):
        beside = file.with_name(f"{file.stem}_{name}.json")
        known = json.loads(beside.read_text()) if beside.is_file() else {}
        found = {row["cell"]: find(study, row["cell"]) or known.get(row["cell"]) for row in rows}
        write_json(beside, {cell: what for cell, what in found.items() if what})
    with atomic_path(file) as temporary:
        temporary.write_text(text.getvalue())


def results(study: Study, file: Path) -> list[dict[str, Any]]:
    """Return a row for every cell that has been evaluated: its values, scores and sizes.

    Other models of the cell that were evaluated too have a column each, such as `oracle`. A cell
    whose run is not here has the row that the table holds, if it was made with the same settings.
    """
    before = {row["cell"]: row for row in _table(file) if "cell" in row}
    rows = []
    for cell in study.cells:
        if (study.runs / cell.name / SCORES).is_file():
            rows.append(_row(study, cell))
        elif cell.name in before and before[cell.name].get("settings") == cell.key:
            rows.append(before[cell.name])
    return rows


def _table(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open() as lines:
        return list(csv.DictReader(lines))


def _row(study: Study, cell: Cell) -> dict[str, Any]:
    settings = list(dict.fromkeys(setting for cell in study.cells for setting in cell.values))
    found = json.loads((study.runs / cell.name / SCORES).read_text())
    low, high = found["ci95"]
    row: dict[str, Any] = {"part": cell.part} if cell.part else {}
    row |= {setting: cell.values.get(setting, "") for setting in settings}
    row |= {
        "title": found["method"],
        "score": round(found["score"], 2),
        "low": round(low, 2),
        "high": round(high, 2),
        **{d: round(found["domains"].get(d, float("nan")), 2) for d in DOMAINS},
        "parameters": found["num_parameters"],
        "episodes": found["episodes"],
        "cell": cell.name,
        "settings": cell.key,
    }
    for model in cell.models[:-1]:
        path = study.runs / cell.name / "evaluation" / f"{model.replace(':', '-')}.json"
        if path.is_file():
            row[model] = round(json.loads(path.read_text())["result"]["score"], 2)
    return row


def _tasks(study: Study, name: str) -> dict[str, float]:
    """Return each task's score of the cell's own model."""
    path = study.runs / name / SCORES
    if not path.is_file():
        return {}
    found = json.loads(path.read_text())["tasks"]
    return {task: round(result["score"], 2) for task, result in found.items()}


def _curves(study: Study, name: str) -> dict[str, Any]:
    """Return the conflict curves that a cell's models were registered with.

    Of the single tasks' similarities their standard deviation stays, as `spread`.
    """
    curves: dict[str, Any] = {}
    (cell,) = (cell for cell in study.cells if cell.name == name)
    for path in sorted((study.runs / name / "registry").glob(f"*/*/{ENTRY}")):
        entry = json.loads(path.read_text())
        for kind in ("conflict", "expert_conflict"):
            measured = entry["metrics"].get(kind)
            if measured and entry["name"] in ("main", "0", cell.values.get("method")):
                history = [_without_tasks(record) for record in measured["history"]]
                curves[f"{entry['kind']}/{kind}"] = {**measured, "history": history}
    return curves


def _without_tasks(record: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in record.items() if k != "per_task"}
    return {**kept, "spread": pstdev(record["per_task"])} if "per_task" in record else kept


def show(study: Study, file: Path, console: Console) -> None:
    """Print the scores of all evaluated cells."""
    rows = results(study, file)
    table = Table(title="normalized score [95 % interval]", title_justify="left")
    domains = [d for d in DOMAINS if any(not math.isnan(float(row[d])) for row in rows)]
    several = len({row["title"] for row in rows}) < len(rows)
    for column in ("method", *(["cell"] * several), "mean over tasks", *domains, "parameters"):
        table.add_column(column, justify="left" if column in ("method", "cell") else "right")
    for row in rows:
        score, low, high = (float(row[key]) for key in ("score", "low", "high"))
        scores = [f"{float(row[d]):.1f}" for d in domains]
        told = [row["title"], *([row["cell"]] * several)]
        mean = f"{score:.1f} [{low:.0f}, {high:.0f}]"
        table.add_row(*told, mean, *scores, f"{int(row['parameters']):,}")
    console.print(table)
