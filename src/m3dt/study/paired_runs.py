"""The runs of a comparison, with their scores, and the models that some of them lack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from m3dt.runs.evaluations import ANY, Conditions, Evaluation, file_name
from m3dt.study.score_parts import Part, Rows, counted_once, named, of_the_same_tasks
from m3dt.study.score_rows import COLUMNS, table_rows
from m3dt.study.score_sources import (
    RunSource,
    chosen_scores,
    common_conditions,
    read_run,
    without_copies,
    without_repeated,
)
from m3dt.utils.counts import agreeing, counted
from m3dt.utils.errors import UserError, nearest


@dataclass(frozen=True)
class Found:
    """The scores of a comparison.

    Attributes:
        rows: A row (`COLUMNS`) per run, model and task.
        notes: What was left out.
        lacking: For each model that a run lacks, by its name in rows: which run, and the remedy.
    """

    rows: Rows
    notes: list[str]
    lacking: dict[str, str]


@dataclass(frozen=True)
class _Runs:
    """Runs under common conditions.

    Attributes:
        rows: Those of each folder.
        sources: The runs, by folder.
        names: Models by their names in rows.
        conditions: The conditions.
    """

    rows: dict[Path, Rows]
    sources: dict[Path, RunSource]
    names: dict[str, str]
    conditions: Conditions

    def have_elsewhere(self, part: Part, model: str) -> bool:
        """Tell whether a run has a model under other conditions."""
        source = self.sources.get(part.source)
        return source is not None and self.names.get(model, model) in source.under(ANY)

    def remedy(self, parts: Sequence[Part], models: Sequence[str]) -> str:
        """Return what to do about runs that lack models, as sentences."""
        folders = [part.source for part in parts if not part.is_of_table]
        if not folders:
            return "Give the folders of the runs, or a table that has these scores."
        names = [self.names.get(name, name) for name in models]
        runs = [self.sources[folder] for folder in folders]
        return _remedy(runs, names, self.conditions).strip()


def read_scores(
    sources: Sequence[Path], against: str, models: Sequence[str] = (), wanted: Conditions = ANY
) -> Found:
    """Read the scores of runs and tables that are compared.

    Runs count once, whatever path leads to them, and have scores under the same conditions: those
    under which most of them have scores of `against`, and the newest of these.

    Args:
        sources: Folders of runs, and tables.
        against: The model that others are compared with.
        models: The others; by default all.
        wanted: The conditions of the evaluations that are taken from runs.

    Raises:
        UserError: A source holds no scores, or none has those that are asked for.
    """
    paths, notes = without_repeated(sources)
    tables = {path: table_rows(path) for path in paths if path.is_file()}
    if tables and wanted != ANY:
        raise UserError(
            f"{next(iter(tables))}: a table does not say under which conditions its scores were "
            "made. Leave out --tasks, --episodes and --seed, or give runs."
        )
    runs = [read_run(path) for path in paths if path not in tables]
    for run in runs:
        if not run.stored:
            reason = run.notes[-1] if run.notes else run.remedy([against, *models], wanted)
            raise UserError(f"{run.folder}: holds no scores. {reason}")
    runs, more = without_copies(runs)
    notes += more
    for run in runs:
        notes += run.notes
    taken, more = _of_runs(runs, tables.values(), against, models, wanted)
    notes += more
    parts = [
        Part(path, name, list(rows))
        for path, whole in tables.items()
        for name, rows in groupby(sorted(whole, key=itemgetter("run")), itemgetter("run"))
    ]
    parts += [Part(path, path.resolve().name, rows) for path, rows in taken.rows.items()]
    parts.sort(key=lambda part: paths.index(part.source))
    parts, repeated = counted_once(parts)
    parts, other = of_the_same_tasks(parts, file_name(against))
    notes += [*repeated, *other]
    found = _found(parts, file_name(against), [file_name(name) for name in models], taken)
    return replace(found, notes=[*notes, *found.notes])


def _found(parts: Sequence[Part], against: str, models: Sequence[str], taken: _Runs) -> Found:
    """Return the scores of a comparison, and what is to be said of models that runs lack."""
    lacking = _lacking(parts, against)
    notes = [] if models else _notes_of_lacking(lacking, taken)
    reasons = {name: _reason(own, [name], taken) for name, own in lacking.items()}
    known = {row["model"] for part in parts for row in part.rows}
    for name in {*models} - known:
        reasons[name] = _reason_of_all(parts, name, known - {*lacking}, taken)
    return Found([row for part in named(parts) for row in part.rows], notes, reasons)


def _of_runs(
    runs: Sequence[RunSource],
    tables: Iterable[Rows],
    against: str,
    models: Sequence[str],
    wanted: Conditions,
) -> tuple[_Runs, list[str]]:
    """Return the rows of runs under common conditions, and notes.

    Raises:
        UserError: Nobody has scores of `against`, or no run has them under the wanted conditions.
    """
    names = {file_name(one.model): one.model for run in runs for one in run.stored}
    known = {*names, *(row["model"] for rows in tables for row in rows)}
    against, *models = (names.get(file_name(name), name) for name in (against, *models))
    if file_name(against) not in known:
        hint = nearest(file_name(against), known)
        hint = hint or _remedy(runs, [against, *models], wanted)
        raise UserError(f"--against {against}: nobody evaluated it.{hint}")
    conditions = common_conditions(runs, against, wanted)
    if conditions is None and wanted != ANY:
        asked = [against, *(models or runs[0].under(ANY))]
        raise UserError(
            f"{runs[0].folder}: holds no scores of {against} under these conditions."
            f"{_remedy(runs, asked, wanted)}"
        )
    taken, notes = {}, []
    for run in runs:
        found, more = chosen_scores(run, against, models, conditions or ANY)
        notes += more
        if found:
            taken[run.folder] = _rows_of(run.folder.resolve().name, found)
    by_folder = {run.folder: run for run in runs}
    return _Runs(taken, by_folder, names, conditions or ANY), notes


def _remedy(runs: Sequence[RunSource], models: Sequence[str], wanted: Conditions) -> str:
    """Return the command for the first of runs, as a sentence."""
    if not runs:
        return ""
    others = " Do so with each of the other runs." if runs[1:] else ""
    return f" {runs[0].remedy(models, wanted)}{others}"


def _rows_of(run: str, chosen: Mapping[str, Evaluation]) -> Rows:
    rows = []
    for name, one in chosen.items():
        result = one.result
        for task, scores in result["tasks"].items():
            cost = f"{result['flops_per_action'] / 1e6:.3f}", f"{result['ms_per_action']:.3f}"
            values = (run, file_name(name), task, f"{scores['score']:.2f}", *cost)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _lacking(parts: Sequence[Part], against: str) -> dict[str, tuple[Part, ...]]:
    """Return the runs that lack scores of a model which another run has, by model."""
    names = dict.fromkeys(row["model"] for part in parts for row in part.rows)
    lacking = {
        name: tuple(part for part in parts if not part.tasks(name) >= part.tasks(against))
        for name in names
    }
    return {name: own for name, own in lacking.items() if own}


def _notes_of_lacking(lacking: Mapping[str, tuple[Part, ...]], taken: _Runs) -> list[str]:
    """Return a note for each set of runs that lack models.

    None is for models that runs have under other conditions: that was noted.
    """
    models: dict[tuple[str, ...], list[str]] = {}
    runs: dict[tuple[str, ...], list[Part]] = {}
    for name, parts in lacking.items():
        never = [part for part in parts if not taken.have_elsewhere(part, name)]
        if never:
            key = tuple(part.full_name for part in never)
            models.setdefault(key, []).append(name)
            runs[key] = never
    return [
        f"{', '.join(names)}: left out, since {_reason(runs[key], names, taken)}"
        for key, names in models.items()
    ]


def _reason(parts: Sequence[Part], models: Sequence[str], taken: _Runs) -> str:
    """Return which runs lack scores of models, and what to do about the first of them."""
    first = next((part for part in parts if not part.is_of_table), parts[0])
    more = len(parts) - 1
    others = f", as {agreeing(more, 'does', 'do')} {counted(more, 'other run')}" if more else ""
    whose = agreeing(len(models), "its", "their")
    return f"{first.full_name} lacks {whose} scores{others}. {taken.remedy(parts, models)}"


def _reason_of_all(parts: Sequence[Part], model: str, complete: set[str], taken: _Runs) -> str:
    """Return why a model that no run has is not compared, and what to do about it."""
    remedy = taken.remedy(parts, [model])
    if model in taken.names:
        return f"no run has scores of it under the conditions of the comparison. {remedy}"
    hint = nearest(model, complete)
    remedy = f"If not, {remedy[0].lower()}{remedy[1:]}" if hint else remedy
    return f"no run has scores of it.{hint} {remedy}"
