"""The files of a study: a table of scores, the scores per task, and conflict curves."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import pstdev
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.table import Table

from m3dt.evaluation.scores import shares_of_target
from m3dt.runs.entries import entry_files, read_entry
from m3dt.study.csv_tables import read_study_table
from m3dt.study.grid import SCORES, Cell, Study
from m3dt.tasks import DOMAINS
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, read_json, write_json
from m3dt.utils.output_files import check_output, is_stream

DETAILS = ("conflict", "tasks")  # JSON files next to a table: curves, and scores per task
RETURN = " return"  # ends the columns of a domain's achieved share of its target return
Row = Mapping[str, Any]  # settings, which differ between studies, and scores
Details = Mapping[str, Mapping[str, Any]]  # by kind and cell


def write_table(study: Study, file: Path) -> None:
    """Write the scores of all evaluated cells, and their curves and scores per task next to it."""
    with locked(file):
        rows = table_rows(study, file)
        if rows:
            write_rows(study, file, rows, read_details(file))


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a table, which several jobs may share; create its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        yield


def write_rows(study: Study, file: Path, rows: Sequence[Row], known: Details) -> None:
    """Write rows, and what is known of their cells, unless a run here says more."""
    cells = {cell.name: cell for cell in study.cells}
    names = [row["cell"] for row in rows]
    for kind, read in (("conflict", _curves), ("tasks", _task_scores)):
        details: dict[str, Any] = {}
        for name in names:
            kept = {key: of for key, of in known[kind].items() if key.partition("/")[0] == name}
            details |= read(study, cells[name]) or kept
        write_json(_details_file(file, kind), details)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(file) as temporary, temporary.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_details(file: Path) -> Details:
    """Return the curves and the scores per task next to a table, by kind and cell.

    Raises:
        UserError: They cannot be read.
    """
    details = {}
    for kind in DETAILS:
        path = _details_file(file, kind)
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


def _details_file(file: Path, kind: str) -> Path:
    return file.with_name(f"{file.stem}_{kind}.json")


def check_table(study: Study, file: Path) -> None:
    """Refuse a table with rows of other settings or of other cells, which writing it would lose.

    Raises:
        UserError: The table has such rows, or cannot be written.
    """
    check_output(file)
    if is_stream(file):
        raise UserError(f"{file}: a table is read and written again. Give a file.")
    check_rows(study, file)


def check_rows(study: Study, file: Path) -> None:
    """Refuse a table with rows of other settings or of other cells.

    Raises:
        UserError: The table has such rows.
    """
    check_settings(study, file)
    known = {cell.name for cell in study.cells}
    strange = [row["cell"] for row in read_rows(file) if row["cell"] not in known]
    if strange:
        raise UserError(
            f"{file}: {len(strange)} cells are not of this study, for example {strange[0]}. "
            "Give --csv FILE to write another table."
        )


def check_settings(study: Study, file: Path) -> None:
    """Refuse a table with rows of other settings.

    Raises:
        UserError: The table has such rows.
    """
    kept = {row["cell"] for row in table_rows(study, file)}
    known = {cell.name for cell in study.cells}
    lost = [row["cell"] for row in read_rows(file) if row["cell"] in known - kept]
    if lost:
        raise UserError(
            f"{file}: {len(lost)} cells were made with other settings, for example {lost[0]}. "
            "Give --csv FILE to write another table, or delete this one."
        )


def scored_cells(study: Study, file: Path) -> set[str]:
    """Return the names of the cells with a row of these settings that no run here contradicts."""
    before = {row["cell"]: row for row in read_rows(file)}
    rows = table_rows(study, file)
    return {row["cell"] for row in rows if same_row(row, before.get(row["cell"], {}))}


def same_row(row: Row, other: Row) -> bool:
    """Tell whether two rows hold the same; a missing column is an empty one."""
    first, second = ({k: str(v) for k, v in r.items() if v not in ("", None)} for r in (row, other))
    return first == second


def table_rows(study: Study, file: Path) -> list[Row]:
    """Return a row for each evaluated cell: its values, scores and sizes.

    Other evaluated models of a cell have a column each, such as `oracle`. A cell without a run here
    keeps its row of the table if that was made with the same settings.
    """
    before = {row["cell"]: row for row in read_rows(file)}
    rows: list[Row] = []
    for cell in study.cells:
        if (study.runs / cell.name / SCORES).is_file():
            rows.append(_row(study, cell))
        elif cell.name in before and before[cell.name].get("settings") == cell.key:
            rows.append(before[cell.name])
    return rows


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a table, none if there is no such file.

    Raises:
        UserError: As of `read_study_table`.
    """
    return [row for row in read_study_table(file) if row.get("cell")] if file.is_file() else []


def _row(study: Study, cell: Cell) -> Row:
    settings = list(dict.fromkeys(setting for cell in study.cells for setting in cell.values))
    results = _results(study.runs / cell.name / SCORES)
    found = list(results.values())[-1]  # the cell's own model
    row = {
        **({"part": cell.part} if cell.part else {}),
        **{setting: cell.values.get(setting, "") for setting in settings},
        **_scores(found),
        **_held_out_losses(study, cell),
        "parameters": found["num_parameters"],
        "episodes": found["episodes"],
        "cell": cell.name,
        "settings": cell.key,
    }
    for model in cell.models[:-1]:
        name = _among(results, model)
        if name:
            row[model] = round(results[name]["score"], 2)
    return row


def _scores(result: Mapping[str, Any]) -> Row:
    """Return the columns about a model's scores."""
    low, high = [round(end, 2) for end in result["ci95"] or ()] or ("", "")  # one episode: none
    achieved = shares_of_target(result["tasks"])
    domains = dict.fromkeys((*DOMAINS, *result["domains"]))
    return {
        "title": result["method"],
        "score": round(result["score"], 2),
        "low": low,
        "high": high,
        **{d: round(result["domains"].get(d, float("nan")), 2) for d in domains},
        **{f"{d}{RETURN}": round(achieved.get(d, float("nan")), 4) for d in domains},
    }


def _among(results: Mapping[str, Any], model: str) -> str:
    """Return the name of a model among results, `backbone@prompts-1` for `backbone`; or nothing."""
    if model in results:
        return model
    return next((name for name in results if name.partition("@")[0] == model), "")


def _results(path: Path) -> dict[str, Any]:
    """Return the results of a cell's models by name, the cell's own model last.

    Raises:
        UserError: The file is not what `m3dt evaluate --json` writes.
    """
    try:
        models: dict[str, Any] = dict(read_json(path, finite=True)["models"])
        for result in models.values():
            _check_result(result)
    except UserError:  # the system refuses to read it, or a task is unknown here
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        models = {}
    if not models:
        raise UserError(
            f"{path}: is not what this version of `m3dt evaluate --json` writes. Delete it; "
            "`m3dt study` evaluates the cell again."
        )
    return models


def _check_result(result: Mapping[str, Any]) -> None:
    """Raise an error if the columns of a result cannot be made."""
    _scores(result)
    _scores_by_task(result)
    for name in ("num_parameters", "episodes"):
        if type(result[name]) is not int:
            raise TypeError(name)


def _held_out_losses(study: Study, cell: Cell) -> dict[str, float]:
    """Return the last loss on held-out trajectories by kind of model; experts are one model.

    Theirs is the mean over tasks, each with the expert of its group: the oracle's.
    """
    losses = {}
    for entry in map(read_entry, entry_files(study.runs / cell.name)):
        if "val/loss" in entry.metrics:
            losses[f"val/loss {entry.kind}"] = round(entry.metrics["val/loss"], 5)
    return losses


def _task_scores(study: Study, cell: Cell) -> dict[str, dict[str, float]]:
    """Return the score of the cell's models on each task, empty without a run.

    Its own model has the cell's name, others `CELL/MODEL`. `CELL/before` is the agent that an
    extended run was a copy of.
    """
    path = study.runs / cell.name / SCORES
    if not path.is_file():
        return {}
    results = _results(path)
    *_, own = results
    shown = {cell.name: own}
    shown |= {f"{cell.name}/{m}": name for m in cell.models[:-1] if (name := _among(results, m))}
    found = {key: _scores_by_task(results[name]) for key, name in shown.items()}
    if cell.copy and cell.extend != "no" and (cell.copy / SCORES).is_file():
        *_, before = _results(cell.copy / SCORES).values()
        found[f"{cell.name}/before"] = _scores_by_task(before)
    return found


def _scores_by_task(result: Mapping[str, Any]) -> dict[str, float]:
    return {task: round(scores["score"], 2) for task, scores in result["tasks"].items()}


def _curves(study: Study, cell: Cell) -> dict[str, Any]:
    """Return the conflict curves in the registry of the cell's run, by its name, empty without any.

    `spread`, the standard deviation over tasks, replaces the similarities of the single tasks.
    """
    curves: dict[str, Any] = {}
    for entry in map(read_entry, entry_files(study.runs / cell.name)):
        for kind in ("conflict", "expert_conflict"):
            measured = entry.metrics.get(kind)
            if measured and entry.name in ("main", "0", cell.values.get("method")):
                history = [_without_tasks(record) for record in measured["history"]]
                curves[f"{entry.kind}/{kind}"] = {**measured, "history": history}
    return {cell.name: curves} if curves else {}


def _without_tasks(record: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in record.items() if k != "per_task"}
    return {**kept, "spread": pstdev(record["per_task"])} if "per_task" in record else kept


def _score(row: Row, column: str) -> float:
    value = row.get(column, "")
    return math.nan if value in ("", None) else float(value)


def print_table(study: Study, file: Path, console: Console) -> None:
    """Print the scores of all evaluated cells."""
    rows = table_rows(study, file)
    table = Table(title="normalized score [95 % interval]")
    with_return = (key for row in rows for key in row if key.endswith(RETURN))
    known = dict.fromkeys(key.removesuffix(RETURN) for key in with_return)
    domains = [d for d in known if any(not math.isnan(_score(row, d)) for row in rows)]
    named = ["cell"] if len({row["title"] for row in rows}) < len(rows) else []
    for column in ("method", *named, "mean over tasks", *domains, "parameters"):
        table.add_column(column, justify="left" if column in ("method", "cell") else "right")
    for row in rows:
        low, high = _score(row, "low"), _score(row, "high")
        interval = "(n = 1)" if math.isnan(low) else f"[{low:.1f}, {high:.1f}]"
        mean = f"{float(row['score']):.1f} {interval}"
        scores = [f"{_score(row, d):.1f}" for d in domains]
        names = [row[key] for key in ("title", *named)]
        table.add_row(*names, mean, *scores, f"{int(row['parameters']):,}")
    console.print(table)
