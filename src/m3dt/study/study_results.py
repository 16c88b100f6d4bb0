"""Results of a study, read from its files: scores by seed, scores per task, conflict curves."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, TypedDict

from m3dt.config import Config, find_study
from m3dt.study.cell_results import RETURN
from m3dt.study.csv_tables import read_study_table
from m3dt.study.design import METHOD_PARTS, Design, design_of, num_tasks, suite_of
from m3dt.study.estimates import Ranged, Scores
from m3dt.study.table_details import read_details
from m3dt.utils.counts import agreeing, counted
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
        study: Name of the study that they are results of.
    """

    rows: tuple[dict[str, str], ...]
    curves: Mapping[str, Mapping[str, Curve]]
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    study: str = "lite"

    @classmethod
    def read(cls, file: Path | str) -> Results:
        """Read a CSV of `m3dt study` and the two JSON files next to it.

        Raises:
            UserError: The file does not exist or is something else, or one of them is damaged.
        """
        file = user_path(file)
        if not file.is_file():
            raise UserError(f"{file}: no such results.{_how_to_make(file.stem)}")
        details, rows = read_details(file), tuple(read_study_table(file))
        if not rows or not {"part", "seed", "score", "cell"} <= set(rows[0]):
            raise UserError(f"{file}: not the results of a study in parts, such as lite.yaml")
        if not all(row["seed"] for row in rows):
            raise UserError(
                f"{file}: has cells without a seed, which figures need. Give `seed` in the grid of "
                "each part of the study."
            )
        method = design_of(file.stem).base.method  # where the study has no such column
        rows = tuple(row | {"method": row.get("method", method)} for row in rows)
        return cls(rows, details["conflict"], details["tasks"], file.stem)

    @property
    def design(self) -> Design:
        """The plan of the study."""
        return design_of(self.study)

    @property
    def base(self) -> Config:
        """The configuration that the study's cells deviate from."""
        return self.design.base

    @property
    def medium(self) -> int:
        """The number of tasks on which everything but the number of tasks is compared."""
        return self.design.medium

    @property
    def task_counts(self) -> list[int]:
        """Numbers of tasks on which methods are compared: planned, or found in the rows."""
        return sorted({*self.design.task_counts, *self.counts_of(*METHOD_PARTS)})

    @property
    def few(self) -> int:
        """The smallest number of tasks on which methods are compared."""
        return self.task_counts[0]

    @property
    def many(self) -> int:
        """The largest number of tasks on which methods are compared."""
        return self.task_counts[-1]

    def counts_of(self, *parts: str) -> list[int]:
        """Return the numbers of tasks of some parts' rows, ascending."""
        return sorted({num_tasks(self.suite_of(row)) for row in self.rows if row["part"] in parts})

    def suite_of(self, row: Mapping[str, str]) -> str:
        """Return the suite of a row; without that column, all rows have the base's tasks."""
        return row.get("suite") or suite_of(self.base)

    def scores(self, part: str, column: str = "score", **values: object) -> Scores:
        """Return a column by seed, of the cells of a part that have the given values.

        Columns are `score`, `oracle`, a domain and so on. Values are those of settings, by the end
        of their names: `suite="mt10"`. A cell without a value of a setting has the base's.
        """
        rows = self._rows(part, values)
        found = {int(row["seed"]): float(row[column]) for row in rows if row.get(column)}
        finite = {seed: value for seed, value in found.items() if not math.isnan(value)}
        unbounded = column == "parameters" or column.endswith(RETURN)
        return finite if unbounded else Ranged(finite)

    def task_scores(self, part: str, **values: object) -> dict[int, Mapping[str, float]]:
        """Return the scores per task by seed, of the cells that `scores` selects."""
        rows = self._rows(part, values)
        return {int(r["seed"]): self.tasks[r["cell"]] for r in rows if r["cell"] in self.tasks}

    def _rows(self, part: str, values: Mapping[str, object]) -> list[dict[str, str]]:
        wanted = {key: str(value) for key, value in values.items()}
        return [
            row
            for row in self.rows
            if row["part"] == part
            and all(value in self._settings(row, key) for key, value in wanted.items())
        ]

    def _settings(self, row: Mapping[str, str], name: str) -> list[str]:
        """Return a row's values of the settings that end in a name, or else the base's values."""
        if name == "suite":
            return [self.suite_of(row)]
        columns = _columns(row, name)
        if not columns:
            sections = vars(self.base).values()
            return [str(getattr(section, name)) for section in sections if hasattr(section, name)]
        defaults = [str(attrgetter(key)(self.base)) if "." in key else "" for key in columns]
        return [row[key] or default for key, default in zip(columns, defaults, strict=True)]

    def values(self, part: str, setting: str, **values: object) -> list[int]:
        """Return the sorted values of a setting with whole numbers; see `numbers`."""
        return [int(float(value)) for value in self.numbers(part, setting, **values)]

    def numbers(self, part: str, setting: str, **values: object) -> list[str]:
        """Return the sorted values of a numeric setting as written, by the end of its name.

        They are those of the cells of a part that have the given values, as for `scores`.
        """
        rows = self._rows(part, values)
        found = {row[column] for row in rows for column in _columns(row, setting)}
        return sorted(filter(None, found), key=float)

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

    def _task_lists(self) -> str:
        """Return a sentence that says whether seeds share their tasks."""
        keys = ("part", "tasks") if any(row.get("tasks") for row in self.rows) else ("suite",)
        lists: dict[str, set[frozenset[str]]] = defaultdict(set)
        for row in self.rows:
            scored = frozenset(self.tasks.get(row["cell"], {}))
            lists[" ".join(row.get(key) or "" for key in keys)] |= {scored} if scored else set()
        if any(len(found) > 1 for found in lists.values()):
            return "Each seed has its own task list, except at 160 tasks."
        return "All seeds have the same tasks."

    def summary(self) -> str:
        """Return a Markdown sentence with the number of cells and seeds, and the missing ones."""
        seeds: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for row in self.rows:
            settings = [v for k, v in row.items() if k in ("suite", "method") or "." in k]
            seeds[row["part"], *settings].add(row["seed"])
        every = sorted(set.union(*seeds.values()), key=int)
        planned = {part: min(n, len(every)) for part, n in self.design.seeds.items()}
        incomplete = [
            f"{' '.join(filter(None, names))} ({len(found)} of {wanted})"
            for names, found in seeds.items()
            if len(found) < (wanted := planned.get(names[0], len(every)))
        ]
        missing = f" Seeds are missing of {', '.join(incomplete)}." if incomplete else ""
        methods = any(row["part"] in METHOD_PARTS for row in self.rows)
        about = f" Claims that name no number of tasks are about {self.medium}." if methods else ""
        return (
            f"{counted(len(self.rows), 'cell')} of the study "
            f"{agreeing(len(self.rows), 'has', 'have')} results, with "
            f"{agreeing(len(every), 'seed', 'seeds')} {', '.join(every)}. "
            f"{self._task_lists()} Faint points in figures are "
            "single seeds. Brackets are 95 % intervals by Student's t over n seeds, cut at the "
            f"ends of the scale.{about}{missing}"
        )


def _how_to_make(study: str) -> str:
    """Return the command that makes a study's results, or nothing where there is no such study."""
    try:
        find_study(Path(f"{study}.yaml"))
    except UserError:
        return " Give the table that `m3dt study FILE` wrote."
    return f" `m3dt study {study}` makes them."


def _columns(row: Mapping[str, str], name: str) -> list[str]:
    """Return the columns that are a setting, by the end of its name."""
    return [key for key in row if f".{key}".endswith(f".{name}")]
