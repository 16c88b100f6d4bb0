"""What a study found: scores by cell and seed, and their means with intervals."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from m3dt.utils.errors import UserError

NOT_MEASURED = "not measured"
Scores = Mapping[int, float]  # by seed
Record = dict[str, Any]  # of a conflict curve: `step` and measures

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval; without an interval if there is one seed."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return self.text()

    def text(self, unit: str = "") -> str:
        """Return the mean, in a unit, with its interval."""
        if self.seeds < 2:
            return f"{self.mean:z.1f}{unit} (one seed)"
        return f"{self.mean:z.1f} [{self.low:z.1f}, {self.high:z.1f}]{unit}"


def estimate(values: Iterable[float]) -> Estimate | None:
    """Return mean and interval of some seeds' values (Student's t), or None of none."""
    x = np.array(list(values), float)
    if not len(x):
        return None
    if len(x) == 1:
        return Estimate(float(x[0]), float("nan"), float("nan"), 1)
    t = _T[min(len(x) - 2, len(_T) - 1)]
    half = t * x.std(ddof=1) / len(x) ** 0.5
    return Estimate(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x))


@dataclass(frozen=True)
class Results:
    """A study's table and curves.

    Attributes:
        rows: One a cell: its part, values and scores, all as the CSV has them.
        curves: By cell, then by what was measured.
        tasks: By cell, the score of each of its tasks.
    """

    rows: tuple[dict[str, str], ...]
    curves: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path | str) -> Results:
        """Read a CSV of `m3dt study`, and the curves and tasks beside it.

        Raises:
            UserError: There is none.
        """
        file = Path(file)
        if not file.is_file():
            raise UserError(
                f"{file}: no such results. `m3dt study conf/study/{file.stem}.yaml` makes them."
            )
        beside = [file.with_name(f"{file.stem}_{name}.json") for name in ("conflict", "tasks")]
        found = [json.loads(path.read_text()) if path.is_file() else {} for path in beside]
        with file.open() as lines:
            rows = tuple(csv.DictReader(lines))
        if not rows or not {"part", "seed", "score"} <= set(rows[0]):
            raise UserError(f"{file}: not the results of a study in parts, such as lite.yaml")
        return cls(rows, *found)

    def scores(self, part: str, column: str = "score", **values: Any) -> dict[int, float]:
        """Return a column by seed of the cells of a part that have the given values.

        Args:
            part: Of the study.
            column: Such as `score`, `oracle` or a domain.
            **values: Of settings, by the last part of their names: `suite="mt10"`.
        """
        found = {
            int(row["seed"]): float(row[column])
            for row in self._rows(part, values)
            if row.get(column)
        }
        return {seed: value for seed, value in found.items() if not math.isnan(value)}

    def task_scores(self, part: str, **values: Any) -> dict[int, Mapping[str, float]]:
        """Return the scores of single tasks by seed, of the cells that `scores` would find."""
        rows = self._rows(part, values)
        return {int(r["seed"]): self.tasks[r["cell"]] for r in rows if r["cell"] in self.tasks}

    def _rows(self, part: str, values: Mapping[str, Any]) -> list[dict[str, str]]:
        found = []
        for row in self.rows:
            short = {key.rpartition(".")[2]: value for key, value in row.items()}
            wanted = all(short.get(key) == str(value) for key, value in values.items())
            if row["part"] == part and wanted:
                found.append(row)
        return found

    def values(self, part: str, setting: str) -> list[int]:
        """Return which values of a numeric setting the cells of a part have, in order.

        Args:
            part: Of the study.
            setting: The last part of its name.
        """
        found = {
            value
            for row in self.rows
            for key, value in row.items()
            if row["part"] == part and key.rpartition(".")[2] == setting and value
        }
        return sorted(map(int, found))

    def histories(self, cell: str, measured: str) -> dict[int, list[Record]]:
        """Return by seed the records of cells, such as those of `backbone/conflict`.

        Args:
            cell: Their name without the seed: `mt160_promptdt`.
            measured: Kind of model and measure.
        """
        found = {}
        for name, curves in self.curves.items():
            match = re.fullmatch(rf"seed(\d+)_{re.escape(cell)}", name)
            history = curves.get(measured, {}).get("history")
            if match and history:
                found[int(match[1])] = list(history)
        return dict(sorted(found.items()))

    def summary(self) -> str:
        """Return in Markdown how many cells and seeds there are, and where some are missing."""
        seeds: dict[str, set[str]] = defaultdict(set)
        for row in self.rows:
            settings = [v for k, v in row.items() if k in ("suite", "method") or "." in k]
            seeds[" ".join(filter(None, (row["part"], *settings)))].add(row["seed"])
        every = sorted(set.union(*seeds.values()), key=int)
        short = [
            f"{cell} ({len(found)} of {len(every)})"
            for cell, found in seeds.items()
            if len(found) < len(every)
        ]
        told = f"{len(self.rows)} cells of the study have results, seeds {', '.join(every)}."
        told += " Each seed has its own list of tasks, but of 160; in figures it is a faint line."
        return told + (f" Seeds are missing of {', '.join(short)}." if short else "")


def difference(a: Scores, b: Scores) -> Estimate | None:
    """Return mean and interval of a - b over the seeds that both have."""
    return estimate(minus(a, b).values())


def minus(a: Scores, b: Scores) -> dict[int, float]:
    """Return a - b by seed, of the seeds that both have."""
    return {seed: a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())}
