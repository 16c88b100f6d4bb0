"""What a study has found: a table of scores, and curves of conflict."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from m3dt.files import atomic_path, write_json
from m3dt.registry import ENTRY
from m3dt.study.cells import SCORES, Cell, Study
from m3dt.tasks import DOMAINS


def write_results(study: Study, file: Path) -> None:
    """Write the scores of all evaluated cells, and their conflict curves beside them."""
    rows = results(study)
    if not rows:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_path(file) as temporary:
        temporary.write_text(text.getvalue())
    curves = {cell.name: found for cell in study.cells if (found := _curves(study, cell))}
    if curves:
        write_json(file.with_name(f"{file.stem}_conflict.json"), curves)


def results(study: Study) -> list[dict[str, Any]]:
    """Return a row for every cell that has been evaluated: its values, scores and sizes.

    Other models of the cell that were evaluated too have a column each, such as `oracle`.
    """
    settings = list(dict.fromkeys(setting for cell in study.cells for setting in cell.values))
    rows = []
    for cell in study.cells:
        file = study.runs / cell.name / SCORES
        if not file.is_file():
            continue
        found = json.loads(file.read_text())
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
        }
        for model in cell.models[:-1]:
            path = study.runs / cell.name / "evaluation" / f"{model.replace(':', '-')}.json"
            if path.is_file():
                row[model] = round(json.loads(path.read_text())["result"]["score"], 2)
        rows.append(row)
    return rows


def _curves(study: Study, cell: Cell) -> dict[str, Any]:
    """Return the conflict curves that a cell's models were registered with, without tasks'."""
    curves: dict[str, Any] = {}
    for path in sorted((study.runs / cell.name / "registry").glob(f"*/*/{ENTRY}")):
        entry = json.loads(path.read_text())
        for name in ("conflict", "expert_conflict"):
            measured = entry["metrics"].get(name)
            if measured and entry["name"] in ("main", "0", cell.values.get("method")):
                history = [
                    {k: v for k, v in record.items() if k != "per_task"}
                    for record in measured["history"]
                ]
                curves[f"{entry['kind']}/{name}"] = {**measured, "history": history}
    return curves


def show(study: Study, console: Console) -> None:
    """Print the scores of all evaluated cells."""
    rows = results(study)
    table = Table(title="normalized score [95 % interval]", title_justify="left")
    domains = [d for d in DOMAINS if any(row[d] == row[d] for row in rows)]  # not nan
    several = len({row["title"] for row in rows}) < len(rows)
    for column in ("method", *(["cell"] * several), "mean over tasks", *domains, "parameters"):
        table.add_column(column, justify="left" if column in ("method", "cell") else "right")
    names = [c.name for c in study.cells if (study.runs / c.name / SCORES).is_file()]
    for name, row in zip(names, rows, strict=True):
        mean = f"{row['score']:.1f} [{row['low']:.0f}, {row['high']:.0f}]"
        scores = [f"{row[d]:.1f}" for d in domains]
        told = [row["title"], *([name] * several)]
        table.add_row(*told, mean, *scores, f"{row['parameters']:,}")
    console.print(table)
