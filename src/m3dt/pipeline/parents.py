"""What a stage builds on: found, checked, or refused with the command that makes it."""

from __future__ import annotations

from typing import Any

from m3dt.agent import MAIN, check_parent
from m3dt.config import BASELINES, Config
from m3dt.errors import UserError
from m3dt.models import PromptDT
from m3dt.registry import Entry
from m3dt.resuming import differences
from m3dt.run import Run, with_defaults


def check_method(run: Run) -> None:
    """Refuse to run a stage of a method that has none."""
    if run.config.method in BASELINES:
        raise UserError(
            f"method={run.config.method} has no stages. "
            f"Run `m3dt train --conf {run.config.conf} method={run.config.method}`."
        )


def check_groups(run: Run) -> None:
    """Refuse more experts than tasks."""
    experts, tasks = run.config.moe.num_experts, len(run.tasks)
    if experts > tasks:
        raise UserError(f"moe.num_experts={experts}: there are only {tasks} tasks to divide")


def build_backbone(run: Run, entry: Entry) -> PromptDT:
    """Build the registered backbone."""
    model = PromptDT(run.config.model)
    model.load_state_dict(run.registry.tensors(entry))
    return model


def trained_backbone(run: Run, command: str) -> Entry:
    """Return the backbone that a later stage builds on.

    Raises:
        UserError: There is none, or it was trained on other tasks, data or inputs.
    """
    entry = run.registry.find("backbone", MAIN)
    if entry is None:
        raise UserError(
            f"m3dt {command}: the run {run.folder} has no backbone yet. "
            f"Run `m3dt stage1 --conf {run.config.conf}` first, or give its run=FOLDER."
        )
    asked = run.settings()
    run.finished("backbone", MAIN, {**entry.settings, **asked})
    return entry


def trained_experts(run: Run, backbone: Entry) -> list[Entry]:
    """Return all experts, or refuse with the names of those missing or of another backbone."""
    found = [run.registry.find("expert", str(k)) for k in range(run.config.moe.num_experts)]
    missing = [str(k) for k, entry in enumerate(found) if entry is None]
    if missing:
        raise UserError(
            f"{run.folder}: {len(missing)} of {len(found)} experts are missing: "
            f"{', '.join(missing)}. Run `m3dt stage2 --conf {run.config.conf}` first."
        )
    grouping = run.registry.get("grouping", MAIN)
    asked = run.settings("grouping", "moe.num_experts", "moe.expert")
    experts = [entry for entry in found if entry is not None]
    for expert in experts:
        recorded = {k: expert.settings.get(k) for k in asked}
        changed = differences(with_defaults(recorded, asked), asked)
        if changed:
            raise UserError(
                f"{run.folder}: {expert.key} was trained with other settings: {changed}. "
                "Give another run=FOLDER."
            )
    for expert in experts:
        check_parent(run.registry, expert, backbone)
        check_parent(run.registry, expert, grouping)
    return experts


def stopping(config: Config) -> dict[str, Any]:
    """Return the settings of stage 1's callbacks, which may decide when it stops."""
    named = {n: c for n, c in config.callbacks.items() if c is not None}
    return {n: c for n, c in named.items() if "stage1" in c.get("stages", [])}
