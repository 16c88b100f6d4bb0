"""Load a trained model of a run: `m3dt.load`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from m3dt.data.context import TaskContext
from m3dt.evaluation.agent import Agent
from m3dt.models import PromptDT
from m3dt.models.variants.task_masks import TaskMasks
from m3dt.runs.assemble import build_model
from m3dt.runs.entries import Entry
from m3dt.runs.generations import experts_of, newest_generation, router_of
from m3dt.runs.registry import MAIN, Registry
from m3dt.runs.shipped import find_run
from m3dt.runs.tensors import check_tensors
from m3dt.utils.errors import UserError
from m3dt.utils.products import warn_of_other_products

TASKS = "tasks.safetensors"
ACTING_KINDS = ("router", "expert", "backbone", "baseline")  # in the order of preference


def load(
    run: str | Path,
    kind: str | None = None,
    name: str | int | None = None,
    device: str | torch.device = "cpu",
) -> Agent:
    """Load a trained model of a run, verified and ready to act.

    Args:
        run: The run's folder, or the name of an agent that the package ships: `quickstart` (12
            tasks) or `mt40`. A folder of that name is preferred.
        kind: `router` (all of M3DT), `expert` (backbone and one expert), `backbone` or `baseline`;
            by default the first of these that the run has trained.
        name: Name within the kind; of an expert its number, by default the lowest. By default, the
            router of a run that was extended is that of its newest generation.
        device: Where the model goes.

    Raises:
        UserError: There is no such run or device, the run has no such model, or its parts do not
            belong together.
    """
    warn_of_other_products()
    _check_device(device)
    return load_run(find_run(run), kind, None if name is None else str(name), device)


def _check_device(device: str | torch.device) -> None:
    """Check that tensors can be made on a device.

    Raises:
        UserError: They cannot.
    """
    try:
        torch.zeros(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"device={device}: {reason}") from None


def load_run(
    run: str | Path,
    kind: str | None = None,
    name: str | None = None,
    device: str | torch.device = "cpu",
) -> Agent:
    """Do as `load`, but never take an agent of the package for a run that is missing."""
    registry = Registry(run)
    entry = _choose_entry(registry, kind, name)
    root = entry if entry.kind == "baseline" else registry.get("backbone", MAIN)
    return make_agent(registry, root, entry, build_model(registry, root, entry), device)


def make_agent(
    registry: Registry, root: Entry, entry: Entry, model: PromptDT, device: str | torch.device
) -> Agent:
    """Add to a model the data of its tasks: of its root, and of experts that were added later.

    Raises:
        UserError: These are not as they should be.
    """
    experts = [entry] if entry.kind == "expert" else experts_of(registry, entry)
    return agent_of(registry, root, entry, experts, model, device)


def agent_of(
    registry: Registry,
    root: Entry,
    entry: Entry,
    experts: Sequence[Entry],
    model: PromptDT,
    device: str | torch.device,
) -> Agent:
    """Return the agent of a model that holds some experts; see `make_agent`."""
    context = _context(registry, root, experts)
    masks = None
    if "masks.safetensors" in entry.files:
        packed = TaskMasks.expected(model, len(entry.tasks))
        masks = TaskMasks(model, _checked(registry, entry, "masks", {"packed": packed})["packed"])
    history = root.settings.get("history", "real_dims")  # `all_dims` for imported models
    # Experts that do not train may be kept in another layout.
    model = model.eval().requires_grad_(False).to(device)
    return Agent(model, entry, context, str(registry.run), masks, history)


def _context(registry: Registry, root: Entry, experts: Sequence[Entry]) -> TaskContext:
    contexts = []
    for part in (root, *experts):
        if TASKS in part.files:
            expected = TaskContext.expected_tensors(len(part.tasks), root.model)
            found = _checked(registry, part, "tasks", expected)
            contexts.append(TaskContext.from_tensors(part.tasks, found))
    return TaskContext.join(contexts) if contexts else TaskContext.empty()


def context_of_run(run: str | Path) -> TaskContext:
    """Return what a run knows of its tasks, those of extensions too; nothing if it has no model.

    Raises:
        UserError: An entry is damaged.
    """
    registry = Registry(run)
    entries = registry.entries()
    root = next((entry for entry in entries if entry.kind in ("backbone", "baseline")), None)
    if root is None:
        return TaskContext.empty()
    return _context(registry, root, [entry for entry in entries if entry.kind == "expert"])


def _checked(
    registry: Registry, entry: Entry, stem: str, expected: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return a group of tensors of an entry, which must be as expected, in their precision."""
    tensors = registry.tensors(entry, stem)
    check_tensors(registry.file(entry, stem), tensors, expected)
    return {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}


def _choose_entry(registry: Registry, kind: str | None, name: str | None) -> Entry:
    """Return the entry of a kind and name, or of their defaults."""
    entries = registry.entries()
    if kind is None:
        found = {entry.kind for entry in entries}
        kind = next((k for k in ACTING_KINDS if k in found), None)
        if kind is None:
            remedy = "Train one with `m3dt stage1`."
            raise UserError(f"{registry.run}: holds no trained model. {remedy}")
    if kind not in ACTING_KINDS:
        raise UserError(f"kind={kind}: models that act are of kind {', '.join(ACTING_KINDS)}")
    newest = newest_generation(registry)
    if name is None and kind == "router" and newest:
        name = router_of(newest)
    if name is None:
        name = next((entry.name for entry in entries if entry.kind == kind), MAIN)
    return registry.get(kind, name)
