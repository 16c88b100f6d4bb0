"""The list of a run's models that `m3dt registry` prints."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from m3dt.cli.evaluation_table import score_cell
from m3dt.runs.entries import Entry
from m3dt.runs.evaluations import Evaluation, evaluations
from m3dt.runs.registry import Registry
from m3dt.runs.shipped import find_run
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError
from m3dt.utils.output_files import check_output, output_json


def show_registry(run: Path, json_file: Path | None, console: Console) -> None:
    """List the models of a run: score, parameters, date, size on disk, and their parents.

    The run may be a shipped agent.

    Raises:
        UserError: The folder holds no registry, or an entry is damaged.
    """
    if json_file is not None:
        check_output(json_file)
    run = find_run(run)
    registry = Registry(run)
    entries = registry.entries()
    if not entries:
        raise UserError(f"{run}: holds no registered model")
    found, notes = evaluations(run)
    listed = {entry.key: _listed(registry, entry, found) for entry in entries}
    if json_file is not None:
        described = [asdict(entry) for entry in entries]
        output_json(json_file, {"run": str(run), "entries": described, "models": listed})
    table = Table("model", title=f"models of {run}")
    for column in ("score", "step", "tasks", "parameters", "size", "date", "hash"):
        table.add_column(column, justify="right")
    table.add_column("parents", max_width=36)
    for entry in entries:
        own = listed[entry.key]
        parents = [f"{key}@{digest[:8]}" for key, digest in entry.parents.items()]
        shown = ", ".join(parents[:3]) + (f" and {len(parents) - 3} more" if parents[3:] else "")
        size = "" if own["parameters"] is None else f"{own['parameters']:,}"
        counts = (str(entry.step), str(len(entry.tasks)), size, _bytes(own["bytes"]))
        score = _score_of(entry, own["evaluation"])
        date = datetime.fromisoformat(own["written"]).strftime("%Y-%m-%d %H:%M")
        table.add_row(entry.key, score, *counts, date, entry.hash[:8], shown)
    console.print(table)
    for note in notes:
        console.print(f"  {note}", style="yellow")


def _listed(registry: Registry, entry: Entry, found: Sequence[Evaluation]) -> dict[str, Any]:
    """Return what is known of a model besides its entry; `evaluation` is its newest one.

    Evaluations in which its experts act as the run's settings say come before others.
    """
    files = [path.stat() for path in registry.file(entry).parent.iterdir() if path.is_file()]
    own = [one for one in found if one.weights == {entry.hash}]
    own = [one for one in own if "@" not in one.model] or own
    return {
        "parameters": None if entry.kind == "grouping" else registry.num_parameters(entry),
        "bytes": sum(file.st_size for file in files),
        "written": datetime.fromtimestamp(max(file.st_mtime for file in files)).isoformat(),
        "evaluation": asdict(own[-1]) if own else None,
    }


def _score_of(entry: Entry, evaluation: Mapping[str, Any] | None) -> str:
    """Return a model's score, with the number of tasks where it was not scored on its own."""
    if evaluation is None:
        return ""
    result: Any = evaluation["result"]
    same = set(result["tasks"]) == set(entry.tasks)
    return score_cell(result) + ("" if same else f" on {counted(len(result['tasks']), 'task')}")


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
