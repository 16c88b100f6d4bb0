"""Recognise finished models: registered in this run, or in the run that `reuse` names."""

from pathlib import Path
from typing import Any

from m3dt.data.format import INDEX
from m3dt.runs import Entry, Registry
from m3dt.runs.layout import check_run_folder
from m3dt.training.fingerprint import changed_settings
from m3dt.training.ranks import is_first_rank, wait_for
from m3dt.training.run import Run
from m3dt.utils.errors import UserError
from m3dt.utils.shell import quoted


def find_finished(run: Run, kind: str, name: str, settings: dict[str, Any]) -> Entry | None:
    """Return a registered model if these settings and data would make the same one.

    Raises:
        UserError: The registered one was made with others.
    """
    entry = run.registry.find(kind, name) or _reused(run, kind, name, settings)
    if entry is None:
        return None
    changed = changed_settings(entry.settings, settings)
    if not changed and (Path(run.config.data) / INDEX).is_file():
        # Where the dataset has been removed, there is nothing to compare.
        changed = "data" if entry.dataset != run.store.checksum else ""
    if changed and "imported" in entry.settings.keys() - settings.keys():
        evaluating = quoted("m3dt", "evaluate", "--run", run.folder)
        raise UserError(
            f"{run.folder}: {entry.key} was imported, and no training continues it. To train, give "
            f"another run=FOLDER; to evaluate it, run `{evaluating}`."
        )
    if changed:
        raise UserError(
            f"{run.folder}: {entry.key} was made with other settings: {changed}. A finished "
            "training is not extended; force=true resumes interrupted ones only. To train anew, "
            f"give another run=FOLDER, where reuse={run.folder} takes what stays the same, or "
            f"delete {run.registry.folder / kind / name}."
        )
    return entry


def _reused(run: Run, kind: str, name: str, settings: dict[str, Any]) -> Entry | None:
    """Take a model from the run `reuse` if it is the one that would be trained here.

    Raises:
        UserError: There is no such run.
    """
    source = run.config.reuse
    if not source:
        return None
    other = Registry(source)
    if not other.folder.is_dir():
        raise UserError(f"{run.config.sources.of('reuse')}: reuse={source}: holds no models")
    entry = other.find(kind, name)
    if entry is None:
        return None
    changed = changed_settings(entry.settings, settings)
    if not changed and entry.dataset != run.store.checksum:
        changed = "data"
    if not changed and not run.registry.holds(entry.parents):
        changed = "what it was trained on"
    if changed:
        run.console.print(f"{entry.key} of {source} is another: {changed}.")
        return None
    run.console.print(f"{entry.key} is taken from {source}.")
    check_run_folder(run.folder)
    if is_first_rank():
        run.registry.adopt(other, entry)
    wait_for(lambda: run.registry.has(kind, name), run.folder)  # the first rank copies for all
    return run.registry.get(kind, name)
