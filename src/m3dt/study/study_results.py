"""Results of a study, read from its files: scores by seed, scores per task, conflict curves."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from m3dt.study.estimates import Ranged, Scores
from m3dt.utils.errors import UserError
from m3dt.utils.paths import user_path


class ConflictRecord(TypedDict):
    """Agreement of the tasks' gradients at one step of training.

    `mean` is the conflict, 1 - cosine to the mean gradient, averaged over tasks, and `smoothed` its
    moving average; `parts` has it by part of the model. `spread` is its deviation over tasks.
    The other measures are cosines: `leave_one_out` to the mean of the other tasks, `pairwise`
    between two tasks, `independent` the value expected of independent gradients.
    """

    step: int
    mean: float
    smoothed: float
    parts: dict[str, float]
    spread: float
    leave_one_out: float
    pairwise: float
    independent: float


class ExpertAgreement(TypedDict):
    """Agreement of gradients in the parameters of experts, averaged over tasks."""

    conflict: float
    leave_one_out: float
    num_tasks: float


class ExpertRecord(TypedDict, total=False):
    """Agreement inside experts at one step: among the tasks of each group, and among all tasks."""

    step: int
    grouped: ExpertAgreement
    all: ExpertAgreement


class Curve(TypedDict):
    """A measure over training, as models are registered with it."""

    history: list[Any]  # of ConflictRecord or ExpertRecord


@dataclass(frozen=True)
class Results:
    """The table and the curves of a study.

    Attributes:
        rows: One per cell, as in the CSV: its part, values and scores.
        curves: By cell and kind of curve, such as `backbone/conflict`.
        tasks: By cell, the score of each task.
    """

    rows: tuple[dict[str, str], ...]
    curves: Mapping[str, Mapping[str, Curve]]
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path | str) -> Results:
        """Read a CSV of `m3dt study` and the two JSON files next to it.

        Raises:
            UserError: The file does not exist or is something else.
        """
        file = user_path(file)
        if not file.is_file():
            raise UserError(
                f"{file}: no such results. `m3dt study conf/study/{file.stem}.yaml` makes them."
            )
        paths = [file.with_name(f"{file.stem}_{name}.json") for name in ("conflict", "tasks")]
        contents = [json.loads(path.read_text()) if path.is_file() else {} for path in paths]
        with file.open() as lines:
            rows = tuple(csv.DictReader(lines))
        if not rows or not {"part", "seed", "score"} <= set(rows[0]):
            raise UserError(f"{file}: not the results of a study in parts, such as lite.yaml")
        return cls(rows, *contents)

    def scores(self, part: str, column: str = "score", **values: object) -> Scores:
        """Return a column by seed, of the cells of a part that have the given values.

        Columns are `score`, `oracle`, a domain and so on. Values are those of settings, by the last
        part of their names: `suite="mt10"`.
        """
        rows = self._rows(part, values)
        found = {int(row["seed"]): float(row[column]) for row in rows if row.get(column)}
        finite = {seed: value for seed, value in found.items() if not math.isnan(value)}
        return finite if column == "parameters" else Ranged(finite)

    def task_scores(self, part: str, **values: object) -> dict[int, Mapping[str, float]]:
        """Return the scores per task by seed, of the cells that `scores` selects."""
        rows = self._rows(part, values)
        return {int(r["seed"]): self.tasks[r["cell"]] for r in rows if r["cell"] in self.tasks}

    def _rows(self, part: str, values: Mapping[str, object]) -> list[dict[str, str]]:
        found = []
        for row in self.rows:
            short = {key.rpartition(".")[2]: value for key, value in row.items()}
            matches = all(short.get(key) == str(value) for key, value in values.items())
            if row["part"] == part and matches:
                found.append(row)
        return found

    def values(self, part: str, setting: str) -> list[int]:
        """Return the sorted values of a numeric setting, by the last part of its name."""
        columns = [key for row in self.rows[:1] for key in row if key.rpartition(".")[2] == setting]
        found = {row[column] for row in self._rows(part, {}) for column in columns}
        return sorted(int(value) for value in found if value)

    def conflict(self, cell: str, kind: str) -> dict[int, list[ConflictRecord]]:
        """Return the conflict during training of a `backbone` or `baseline`, by seed.

        `cell` is the name of the cells without the seed: `mt160_promptdt`.
        """
        return self._histories(cell, f"{kind}/conflict")

    def expert_conflict(self, cell: str, kind: str) -> dict[int, list[ExpertRecord]]:
        """Return the conflict inside experts by seed, of kind `expert` or `router`."""
        return self._histories(cell, f"{kind}/expert_conflict")

    def _histories(self, cell: str, curve: str) -> dict[int, list[Any]]:
        found = {}
        for name, curves in self.curves.items():
            match = re.fullmatch(rf"seed(\d+)_{re.escape(cell)}", name)
            if match and curve in curves and curves[curve]["history"]:
                found[int(match[1])] = curves[curve]["history"]
        return dict(sorted(found.items()))

    def summary(self) -> str:
        """Return a Markdown sentence with the number of cells and seeds, and the missing ones."""
        seeds: dict[str, set[str]] = defaultdict(set)
        for row in self.rows:
            settings = [v for k, v in row.items() if k in ("suite", "method") or "." in k]
            seeds[" ".join(filter(None, (row["part"], *settings)))].add(row["seed"])
        every = sorted(set.union(*seeds.values()), key=int)
        incomplete = [
            f"{cell} ({len(found)} of {len(every)})"
            for cell, found in seeds.items()
            if len(found) < len(every)
        ]
        missing = f" Seeds are missing of {', '.join(incomplete)}." if incomplete else ""
        return (
            f"{len(self.rows)} cells of the study have results, with seeds {', '.join(every)}. "
            "Each seed has its own task list, except at 160 tasks. Faint lines in figures are "
            "single seeds. Brackets are 95 % intervals by Student's t over n seeds, cut at the "
            f"ends of the scale.{missing}"
        )
