"""Runs of tables beside those of folders: each counted once, named, and of the same tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from m3dt.study.score_rows import COLUMNS
from m3dt.utils.counts import agreeing

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Part:
    """The scores of a run from one source, a folder or a table."""

    source: Path
    run: str
    rows: Rows

    @property
    def is_of_table(self) -> bool:
        """Whether its source is a table, which does not say of which weights the scores are."""
        return self.source.is_file()

    @property
    def full_name(self) -> str:
        """The run's name with its source, which no other run has."""
        return f"{self.source}:{self.run}" if self.is_of_table else str(self.source)

    def values(self, *columns: str) -> set[tuple[str, ...]]:
        """Return what its rows have in some columns."""
        return {tuple(row[column] for column in columns) for row in self.rows}

    def is_named_as(self, other: Part) -> bool:
        """Tell whether a run in a table has the name of another run.

        Tables of several runs of the same name hold paths, or names with those of tables.
        """
        if other.is_of_table:
            return self.run == other.run
        own = Path(self.run.rpartition(".csv:")[2])
        folder = other.source.resolve()
        return own.resolve() == folder or folder.parts[-len(own.parts) :] == own.parts

    def tasks(self, model: str) -> frozenset[str]:
        """Return the tasks in which a model has scores."""
        return frozenset(row["task"] for row in self.rows if row["model"] == model)


def counted_once(parts: Sequence[Part]) -> tuple[list[Part], list[str]]:
    """Leave out runs of tables that another source has, too.

    Folders all stay, since their weights were compared.
    """
    kept: list[Part] = []
    notes = []
    for part in sorted(parts, key=lambda part: (part.is_of_table, -len(part.rows))):
        others = [other for other in kept if other.source != part.source]
        reason = next(filter(None, (_repetition(part, other) for other in others)), "")
        if part.is_of_table and reason:
            notes.append(f"{part.full_name}: left out, since {reason}")
        else:
            kept.append(part)
    return [part for part in parts if part in kept], [*notes, *_namesakes(kept)]


def _repetition(part: Part, other: Part) -> str:
    """Return why a run of a table is taken to be another one; nothing if it is not."""
    own, its = (one.values(*COLUMNS[1:]) for one in (part, other))
    if own <= its or (its <= own and not other.is_of_table):
        return f"{other.full_name} has the same scores and times: it is the same run."
    if not part.is_named_as(other):
        return ""
    if not other.is_of_table:
        return (
            f"{other.full_name} has the same name, and a table does not say of which weights its "
            "scores are. If it is another run, give its folder."
        )
    if part.values("model", "task", "score") <= other.values("model", "task", "score"):
        return f"{other.full_name} has the same name and scores: it is the same run."
    return ""


def _namesakes(parts: Sequence[Part]) -> list[str]:
    """Return a note for each set of tables with runs of the same names, which count as several."""
    tables: dict[str, list[str]] = {}
    for part in parts:
        if part.is_of_table:
            tables.setdefault(part.run, []).append(str(part.source))
    runs: dict[tuple[str, ...], list[str]] = {}
    for run, files in tables.items():
        if len(files) > 1:
            runs.setdefault(tuple(sorted(files)), []).append(run)
    return [
        f"{', '.join(files)}: have different scores of {agreeing(len(names), 'run', 'runs')} "
        f"{', '.join(sorted(names))}, which count as different runs. If they are not, give one of "
        "these tables only."
        for files, names in runs.items()
    ]


def of_the_same_tasks(parts: Sequence[Part], against: str) -> tuple[list[Part], list[str]]:
    """Leave out runs in which `against` has scores of other tasks than in most, or none."""
    counts = Counter(tasks for part in parts if (tasks := part.tasks(against)))
    (common, _), *_ = counts.most_common(1)
    kept, notes = [], []
    for part in parts:
        tasks = part.tasks(against)
        if tasks == common:
            kept.append(part)
        elif not tasks:
            notes.append(f"{part.full_name}: left out, since it has no scores of {against}.")
        else:
            other = sorted(tasks ^ common)
            where = "there" if other[0] in tasks else "elsewhere"
            notes.append(
                f"{part.full_name}: left out, since {against} has scores of other tasks in it: of "
                f"{other[0]} only {where}."
            )
    return kept, notes


def named(parts: Sequence[Part]) -> list[Part]:
    """Return the parts with names that differ: with their sources, if two have the same name."""
    if len({part.run for part in parts}) == len(parts):
        return list(parts)
    return [
        replace(part, rows=[{**row, "run": part.full_name} for row in part.rows]) for part in parts
    ]
