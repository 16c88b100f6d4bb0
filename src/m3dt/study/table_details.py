"""JSON files next to a study's table: scores per task, and conflict curves."""

from collections.abc import Mapping
from pathlib import Path
from statistics import pstdev
from typing import Any

from m3dt.runs.entries import entry_files, read_entry
from m3dt.runs.layout import SCORES
from m3dt.study.cell_data import DataHere
from m3dt.study.cell_results import among, dataset_of_results, read_results, scores_by_task
from m3dt.study.grid import NOT_AT_ALL, Cell, Study
from m3dt.utils.errors import UserError
from m3dt.utils.files import read_json

DETAILS = ("conflict", "tasks")  # JSON files next to a table: curves, and scores per task
Details = Mapping[str, Mapping[str, Any]]  # by kind and cell


def read_details(file: Path) -> Details:
    """Return the curves and the scores per task next to a table, by kind and cell.

    Raises:
        UserError: They cannot be read.
    """
    details = {}
    for kind in DETAILS:
        path = details_file(file, kind)
        try:
            details[kind] = read_json(path) if path.is_file() else {}
            _check_details(kind, details[kind])
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}). Restore it, or delete it.") from None
    return details


def _check_details(kind: str, details: Any) -> None:
    """Raise a ValueError unless each cell has scores by task, or curves with a list of records."""
    cells = [*details.values()] if isinstance(details, dict) else [None]
    if not all(isinstance(of_cell, dict) for of_cell in cells):
        raise ValueError("it is not a mapping of cells")
    for found in (found for of_cell in cells if of_cell for found in of_cell.values()):
        if kind == "tasks" and type(found) not in (int, float):
            raise ValueError(f"a score is {found!r:.40}")
        if kind == "conflict" and not _has_history(found):
            raise ValueError(f"a curve is {found!r:.40}")


def _has_history(curve: Any) -> bool:
    history = curve.get("history") if isinstance(curve, dict) else None
    return isinstance(history, list) and all(isinstance(record, dict) for record in history)


def details_file(file: Path, kind: str) -> Path:
    """Return the file of a kind next to a table."""
    return file.with_name(f"{file.stem}_{kind}.json")


def task_scores_of(study: Study, cell: Cell) -> dict[str, dict[str, float]]:
    """Return the score of the cell's models on each task, empty without a run.

    Its own model has the cell's name, others `CELL/MODEL`. `CELL/before` is the agent that an
    extended run was a copy of.
    """
    path = study.runs / cell.name / SCORES
    if not path.is_file():
        return {}
    results = read_results(path)
    *_, own = results
    shown = {cell.name: own}
    shown |= {f"{cell.name}/{m}": name for m in cell.models[:-1] if (name := among(results, m))}
    found = {key: scores_by_task(results[name]) for key, name in shown.items()}
    if cell.copy and cell.extend != NOT_AT_ALL and _has_source_results(study, cell.copy):
        *_, before = read_results(cell.copy / SCORES).values()
        found[f"{cell.name}/before"] = scores_by_task(before)
    return found


def _has_source_results(study: Study, run: Path) -> bool:
    """Tell whether a run that cells are copies of has results: of a cell, those that count."""
    source = next((cell for cell in study.cells if study.runs / cell.name == run), None)
    if source is None:
        return (run / SCORES).is_file()
    return dataset_of_results(study, source, DataHere()) is not None


def curves_of(study: Study, cell: Cell) -> dict[str, Any]:
    """Return the conflict curves in the registry of the cell's run, by its name, empty without any.

    `spread`, the standard deviation over tasks, replaces the similarities of the single tasks.
    """
    curves: dict[str, Any] = {}
    for entry in map(read_entry, entry_files(study.runs / cell.name)):
        for kind in ("conflict", "expert_conflict"):
            measured = entry.metrics.get(kind)
            if not isinstance(measured, dict) or not isinstance(measured.get("history"), list):
                continue  # nothing, or another callback's
            if entry.name in ("main", "0", cell.values.get("method")):
                history = [_without_tasks(record) for record in measured["history"]]
                curves[f"{entry.kind}/{kind}"] = {**measured, "history": history}
    return {cell.name: curves} if curves else {}


def _without_tasks(record: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in record.items() if k != "per_task"}
    return {**kept, "spread": pstdev(record["per_task"])} if "per_task" in record else kept
