"""Runs as sources of scores: each run once, and all under the same conditions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from m3dt.runs import MAIN
from m3dt.runs.entries import KINDS, Entry, readable_entries
from m3dt.runs.evaluations import ANY, WAY, Conditions, Evaluation, evaluations, newest
from m3dt.runs.layout import CONFIG
from m3dt.utils.counts import agreeing, counted
from m3dt.utils.errors import UserError
from m3dt.utils.shell import quoted


@dataclass(frozen=True)
class RunSource:
    """The folder of a run, or of results of one.

    Attributes:
        folder: The folder.
        stored: Its evaluations whose weights the run still has.
        entries: The models in its registry.
        notes: What was left out of it.
    """

    folder: Path
    stored: tuple[Evaluation, ...]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]

    @property
    def weights(self) -> dict[str, str]:
        """The model of each SHA-256 of weights that were trained.

        Task groups are left out, since their weights are mere labels, which independent runs may
        have in common.
        """
        labels = {entry.hash for entry in self.entries if entry.kind == "grouping"}
        found = {key: one.model.partition("@")[0] for one in self.stored for key in one.weights}
        found |= {entry.hash: _model_name(entry) for entry in self.entries}
        return {key: model for key, model in found.items() if key and key not in labels}

    def under(self, wanted: Conditions) -> dict[str, Evaluation]:
        """Return the newest evaluation of each model under some conditions, by model."""
        return newest(self.stored, wanted)

    def remedy(self, models: Iterable[str], wanted: Conditions = ANY) -> str:
        """Return the command that evaluates models under some conditions, as a sentence."""
        trained = {task for entry in self.entries for task in entry.tasks}
        if trained and wanted.tasks and not wanted.tasks <= trained:
            return "The run was trained on other tasks."
        own = (self.folder / CONFIG).is_file() or bool(self.entries)
        place = [self.folder] if own else ["RUN", "--out", self.folder]  # of another run's results
        names = list(dict.fromkeys(_as_asked(name) for name in models))
        plain = [name for name in names if WAY.fullmatch(name.partition("@")[2])]
        texts = []
        if plain:
            words = ["m3dt", "evaluate", "--run", *place, "--models", ",".join(plain)]
            texts.append(f"Evaluate: `{quoted(*words, *_overrides(wanted))}`.")
        if special := [name for name in names if name not in plain]:
            whose = agreeing(len(special), "its", "their")
            texts.append(
                f"{', '.join(special)}: evaluated with settings of {whose} own. Repeat "
                f"`m3dt evaluate` with the same {_settings(special)}."
            )
        return " ".join(texts)

    def has(self, model: str) -> bool:
        """Tell whether its registry has a model of this name."""
        kind, _, name = model.partition("@")[0].partition(":")
        kind = kind if kind in KINDS else "expert"  # a rule that chooses among the experts
        return any(entry.kind == kind and name in ("", entry.name) for entry in self.entries)


def _as_asked(model: str) -> str:
    """Return a model's name as `m3dt evaluate` takes it: of `router-prompt`, `router:prompt`."""
    return re.sub("^(router|expert|baseline)-", r"\1:", model)


def _settings(models: Iterable[str]) -> str:
    """Return the settings that the names of models stand for, such as `backbone@prompts-1`."""
    known = {"prompts-": "evaluation.prompts", "target-": "evaluation.target_scale"}
    found = [key for word, key in known.items() if any(word in name for name in models)]
    return " and ".join(found or known.values())


def read_run(folder: Path) -> RunSource:
    """Read a run. Left out are the scores of models that were trained again since.

    Raises:
        UserError: It does not exist.
    """
    if not folder.exists():
        raise UserError(
            f"{folder}: holds no scores, since it does not exist. Give the folder of a run, or a "
            "table of `m3dt compare --csv`."
        )
    stored, notes = evaluations(folder)
    entries, problems = readable_entries(folder)
    source = RunSource(folder, tuple(stored), tuple(entries), (*notes, *problems))
    present = {entry.hash for entry in entries}
    if present:  # results outside a run stay
        found = tuple(one for one in stored if one.weights <= present)
        old = sorted({one.model for one in stored} - {one.model for one in found})
        if old:
            whose = agreeing(len(old), "its", "their")
            note = (
                f"{folder}: left out the scores of {', '.join(old)}, since {whose} weights are not "
                f"in its registry. {_remedy_of_old(source, old)}"
            )
            source = replace(source, stored=found, notes=(*source.notes, note))
    return source


def _remedy_of_old(source: RunSource, old: Sequence[str]) -> str:
    """Return what to do about models that were trained again, or are gone from the registry."""
    there = [name for name in old if source.has(name)]
    if there:
        return source.remedy(there)
    whole = [entry for entry in source.entries if entry.kind not in ("grouping", "expert")]
    models = list(map(_model_name, whole))
    if not models:
        return "Train them again, or delete the scores."
    return source.remedy(models).replace("Evaluate:", "Evaluate the models that are:", 1)


def _model_name(entry: Entry) -> str:
    """Return the name of a registered model, as `m3dt evaluate --models` takes it."""
    return entry.kind if entry.name == MAIN else f"{entry.kind}:{entry.name}"


def without_repeated(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return paths of which no two lead to the same place, and a note about each that did."""
    first: dict[Path, Path] = {}
    notes = []
    for path in paths:
        other = first.setdefault(path.resolve(), path)
        if other is not path:
            notes.append(f"{path}: left out, since it is {other}, which was given before.")
    return list(first.values()), notes


def without_copies(runs: Sequence[RunSource]) -> tuple[list[RunSource], list[str]]:
    """Leave out runs all of whose weights another one has, and which would be counted twice.

    The run with more weights stays; of runs with the same weights, the one with more evaluations.
    Runs that share some weights stay, with a note.
    """
    kept: list[RunSource] = []
    notes = []
    for run in sorted(runs, key=lambda run: (-len(run.weights), -len(run.stored))):
        own = run.weights.keys()
        other = next((one for one in kept if own and own <= one.weights.keys()), None)
        if other is None:
            kept.append(run)
        else:
            notes.append(
                f"{run.folder}: left out, since {other.folder} has the weights of all its models: "
                "it is the same run."
            )
    kept = [run for run in runs if run in kept]
    return kept, [*notes, *_shared(kept)]


def _shared(runs: Sequence[RunSource]) -> list[str]:
    """Return a note for each set of runs that have weights in common."""
    models: dict[tuple[str, ...], dict[str, None]] = {}
    for key, model in {key: model for run in runs for key, model in run.weights.items()}.items():
        folders = tuple(str(run.folder) for run in runs if key in run.weights)
        if len(folders) > 1:
            models.setdefault(folders, {})[model] = None
    return [
        f"{', '.join(folders)}: share the weights of {', '.join(names)}. These runs are not "
        "independent, so that intervals are narrower than they should be."
        for folders, names in models.items()
    ]


def common_conditions(
    runs: Sequence[RunSource], against: str, wanted: Conditions
) -> Conditions | None:
    """Return the conditions under which most runs have a model; of several, the newest.

    None stands for a model that no run has under the wanted conditions.
    """
    last: dict[Conditions, str] = {}
    counts: Counter[Conditions] = Counter()
    for run in runs:
        own = [one for one in run.stored if one.model == against and wanted.fit(one.conditions)]
        counts.update({one.conditions for one in own})
        for one in own:
            last[one.conditions] = max(one.written, last.get(one.conditions, ""))
    return max(counts, key=lambda one: (counts[one], last[one]), default=None)


def chosen_scores(
    run: RunSource, against: str, models: Sequence[str], conditions: Conditions
) -> tuple[dict[str, Evaluation], list[str]]:
    """Return a run's evaluations under some conditions, none if `against` lacks one, and notes.

    The notes name what the run has under other conditions only; `models` are those asked for, by
    default all.
    """
    found, other = run.under(conditions), run.under(ANY)
    if against not in found:
        if against in other:
            reason = _other_conditions("its", conditions, other[against].conditions)
        else:
            reason = f"it has no scores of {against}."
        remedy = run.remedy([against, *models], conditions)
        return {}, [f"{run.folder}: left out, since {reason} {remedy}"]
    lacking: dict[Conditions, list[str]] = {}
    for name in models or other:
        if name in other and name not in found:
            lacking.setdefault(other[name].conditions, []).append(name)
    return found, [
        f"{run.folder}: left out {', '.join(names)}, since "
        f"{_other_conditions(agreeing(len(names), 'its', 'their'), conditions, own)} "
        f"{run.remedy(names, conditions)}"
        for own, names in lacking.items()
    ]


def _other_conditions(whose: str, asked: Conditions, own: Conditions) -> str:
    theirs, ours = described(own, asked)
    return f"{whose} scores are {theirs}, those of the comparison {ours}."


def described(one: Conditions, other: Conditions) -> tuple[str, str]:
    """Return in words where two conditions differ."""
    texts = []
    for own, its in ((one, other), (other, one)):
        parts = []
        if None not in (own.tasks, its.tasks) and own.tasks != its.tasks:
            parts.append(f"on {_task_names(own.tasks or (), its.tasks or ())}")
        if own.episodes is not None and its.episodes not in (None, own.episodes):
            parts.append(f"with {counted(own.episodes, 'episode')} per task")
        if own.seed is not None and its.seed not in (None, own.seed):
            parts.append(f"with evaluation.seed={own.seed}")
        texts.append(" and ".join(parts))
    return texts[0], texts[1]


def _task_names(tasks: Iterable[str], others: Iterable[str]) -> str:
    """Return the number of tasks, and an example of one that others lack."""
    own, more = set(tasks), sorted({*tasks} - {*others})
    return counted(len(own), "task") + (f" ({more[0]} among them)" if more else "")


def _overrides(wanted: Conditions) -> list[str]:
    """Return the overrides of `m3dt evaluate` that ask for conditions."""
    words = []
    if wanted.tasks is not None:
        words.append(f"tasks=[{','.join(sorted(wanted.tasks))}]")
    if wanted.episodes is not None:
        words.append(f"evaluation.episodes={wanted.episodes}")
    if wanted.seed is not None:
        words.append(f"evaluation.seed={wanted.seed}")
    return words
