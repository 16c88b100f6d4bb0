"""What a stage builds on: found, checked, or refused with the command that makes it."""

from m3dt.config import BASELINES, Config
from m3dt.models import PromptDT
from m3dt.runs import MAIN, Entry, check_parent
from m3dt.runs.assemble import build_root
from m3dt.training.fingerprint import changed_settings
from m3dt.training.finished import find_finished
from m3dt.training.run import Run
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError


def check_has_stages(config: Config) -> None:
    """Refuse to run a stage of a method that has none."""
    if config.method in BASELINES:
        raise UserError(
            f"{config.sources.of('method')}: method={config.method} has no stages. "
            f"Run `m3dt train {config.options}`."
        )


def check_num_experts(run: Run) -> None:
    """Refuse more experts than tasks."""
    experts, tasks = run.config.moe.num_experts, len(run.tasks)
    if experts > tasks:
        source = run.config.sources.of("moe.num_experts")
        raise UserError(
            f"{source}: moe.num_experts={experts}: more than the {counted(tasks, 'task')} to divide"
        )


def build_backbone(run: Run, entry: Entry) -> PromptDT:
    """Build the registered backbone."""
    return build_root(run.registry, entry)


def trained_backbone(run: Run, command: str) -> Entry:
    """Return the backbone that a later stage builds on.

    Raises:
        UserError: There is none, or it was trained on other tasks, data or inputs.
    """
    entry = run.registry.find("backbone", MAIN)
    if entry is None:
        raise UserError(
            f"m3dt {command}: the run {run.folder} has no backbone yet. "
            f"Run `m3dt stage1 {run.config.options}` first, or give its run=FOLDER."
        )
    find_finished(run, "backbone", MAIN, {**entry.settings, **run.settings()})
    return entry


def trained_experts(run: Run, backbone: Entry) -> list[Entry]:
    """Return all experts, or refuse with the names of those missing or of another backbone."""
    found = [run.registry.find("expert", str(k)) for k in range(run.config.moe.num_experts)]
    missing = [str(k) for k, entry in enumerate(found) if entry is None]
    if missing:
        raise UserError(
            f"{run.folder}: lacks {len(missing)} of {counted(len(found), 'expert')}: "
            f"{', '.join(missing)}. Run `m3dt stage2 {run.config.options}` first."
        )
    grouping = run.registry.get("grouping", MAIN)
    asked = run.settings("grouping", "moe.num_experts", "moe.expert")
    experts = [entry for entry in found if entry is not None]
    for expert in experts:
        recorded = {k: expert.settings.get(k) for k in asked}
        changed = changed_settings(recorded, asked)
        if changed:
            raise UserError(
                f"{run.folder}: {expert.key} was trained with other settings: {changed}. "
                "Give another run=FOLDER."
            )
    for expert in experts:
        check_parent(run.registry, expert, backbone)
        check_parent(run.registry, expert, grouping)
    return experts
