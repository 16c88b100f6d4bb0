"""Put a model together from registry entries, for training and for acting."""

from collections.abc import Sequence

import torch
from torch import Tensor

from m3dt.config import Config
from m3dt.models import PromptDT, add_mixtures, make_model
from m3dt.models.routing import PromptRouter
from m3dt.models.shapes_only import shapes_only
from m3dt.runs.entries import Entry
from m3dt.runs.lineage import check_parent
from m3dt.runs.registry import Registry
from m3dt.runs.tensors import check_tensors
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError


def inference_device(config: Config) -> str:
    """Return `cuda` if it is available and `trainer.accelerator` allows it, else `cpu`."""
    wanted = str(config.trainer.get("accelerator", "auto"))
    available = torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda")
    return "cuda" if available else "cpu"


def build_model(registry: Registry, root: Entry, entry: Entry) -> PromptDT:
    """Put a model together from a root and what was trained on it.

    Args:
        registry: Holds the weights.
        root: A backbone, or a baseline.
        entry: The model that acts: `root` itself, an expert or a router.

    Raises:
        UserError: `entry` or one of its experts was trained on another backbone.
    """
    if entry.kind == "expert":
        return build_experts(registry, root, [entry])
    if entry.key == root.key:
        return build_root(registry, root)
    check_parent(registry, entry, root)
    if entry.moe().router == "prompt":
        return _with_prompt_router(registry, root, entry)
    model = build_root(registry, root)
    _add_router(model, registry, root, entry)
    return model


def build_experts(registry: Registry, root: Entry, experts: Sequence[Entry]) -> PromptDT:
    """Put a backbone and experts together, without a router that weighs them.

    Args:
        registry: Holds the weights.
        root: The backbone.
        experts: At least one; their order is that in the model.

    Raises:
        UserError: An expert was trained on another backbone, or experts are of different kinds.
    """
    model = build_root(registry, root)
    first = experts[0].moe(num_experts=len(experts))
    add_mixtures(model, len(experts), routed=False, moe=first)
    for number, entry in enumerate(experts):
        check_parent(registry, entry, root)
        kind = entry.moe().expert
        if kind != first.expert:
            raise UserError(
                f"{registry.run}: {entry.key} has moe.expert={kind}, but {experts[0].key} has "
                f"moe.expert={first.expert}. Train all experts with one of them."
            )
        load_expert(model, number, registry, entry)
    return model


def build_root(registry: Registry, root: Entry) -> PromptDT:
    """Build a backbone or a baseline.

    Raises:
        UserError: Its tensors are not those of the model that its settings describe, or the class
            of that model cannot be imported.
    """
    weights, path = registry.tensors(root), registry.file(root)
    if not root.model.class_path and root.model.n_layer > len(weights):
        raise UserError(
            f"{path}: holds {counted(len(weights), 'tensor')} for "
            f"{counted(root.model.n_layer, 'block')}"
        )
    with shapes_only():
        expected = _make_root(registry, root).state_dict()
    check_tensors(path, weights, expected)
    model = _make_root(registry, root)
    model.load_state_dict(weights)
    return model


def _make_root(registry: Registry, root: Entry) -> PromptDT:
    model = make_model(root.model, len(root.tasks), f"{registry.run}: {root.key}")
    if root.kind == "baseline" and "moe" in root.settings:
        moe = root.moe()
        add_mixtures(model, moe.num_experts, routed=True, moe=moe)
    return model


def _with_prompt_router(registry: Registry, root: Entry, entry: Entry) -> PromptDT:
    """Put a backbone, experts and the router that chooses them by prompts together."""
    experts = _parent_experts(registry, entry)
    model = build_experts(registry, root, experts)
    weights = registry.tensors(entry)
    sizes = (model.config, len(experts), entry.prompt_router.hidden)
    with shapes_only():
        expected = PromptRouter(*sizes).state_dict()
    check_tensors(registry.file(entry), weights, expected)
    router = PromptRouter(*sizes)
    router.load_state_dict(weights)
    model.prompt_router = router
    return model


def _parent_experts(registry: Registry, entry: Entry) -> list[Entry]:
    """Return the experts that a router was trained with, in its order.

    Raises:
        UserError: Some are missing, or were trained again since.
    """
    keys = [key.split("/") for key in entry.parents if key.startswith("expert/")]
    wanted = entry.moe().num_experts
    if len(keys) != wanted:
        raise UserError(
            f"{registry.run}: {entry.key} has {len(keys)} of {counted(wanted, 'expert')}"
        )
    experts = [registry.get(kind, name) for kind, name in keys]
    for expert in experts:
        check_parent(registry, entry, expert)
    return experts


def _add_router(model: PromptDT, registry: Registry, root: Entry, entry: Entry) -> None:
    """Add a router and its experts to a backbone."""
    moe = entry.moe()
    trained = moe.training != "frozen_experts"  # then the router's entry holds experts of its own
    experts = [] if trained else _parent_experts(registry, entry)
    weights, path = registry.tensors(entry), registry.file(entry)
    if moe.expert == "trunk" and trained and moe.num_experts > len(weights):
        raise UserError(
            f"{path}: holds {counted(len(weights), 'tensor')} for "
            f"{counted(moe.num_experts, 'expert')}"
        )
    with shapes_only():
        shapes = _make_root(registry, root)
        add_mixtures(shapes, moe.num_experts, routed=True, moe=moe)
        check_tensors(path, weights, _router_tensors(shapes, trained))
    add_mixtures(model, moe.num_experts, routed=True, moe=moe)
    for number, expert in enumerate(experts):
        check_parent(registry, expert, root)
        load_expert(model, number, registry, expert)
    for layer, mixture in enumerate(model.mixtures):
        mixture.load_state_dict(_layer(weights, layer), strict=trained)


def _router_tensors(model: PromptDT, with_experts: bool) -> dict[str, Tensor]:
    """Return the tensors of a router's entry."""
    return {
        f"{layer}.{name}": tensor
        for layer, mixture in enumerate(model.mixtures)
        for name, tensor in mixture.state_dict().items()
        if with_experts or name.startswith("router.")
    }


def load_expert(model: PromptDT, number: int, registry: Registry, entry: Entry) -> None:
    """Give a model's expert its trained weights.

    Raises:
        UserError: The entry's tensors are not those of such an expert.
    """
    weights = registry.tensors(entry)
    expected = {
        f"{layer}.{name}": tensor
        for layer, mixture in enumerate(model.mixtures)
        for name, tensor in mixture.experts.weights_of(number).items()
    }
    check_tensors(registry.file(entry), weights, expected)
    for layer, mixture in enumerate(model.mixtures):
        mixture.experts.load_expert(number, _layer(weights, layer))


def _layer(weights: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    prefix = f"{layer}."
    return {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}


def expert_numbers(run: str, experts: Sequence[Entry]) -> dict[str, int]:
    """Return the position of each task's expert.

    Raises:
        UserError: A task belongs to several experts.
    """
    numbers: dict[str, int] = {}
    for number, entry in enumerate(experts):
        for task in entry.tasks:
            if task in numbers:
                raise UserError(
                    f"{run}: {task} belongs to several experts, so nobody knows its own. "
                    "Imported experts do not record which tasks they were trained on."
                )
            numbers[task] = number
    return numbers
