"""Put a model together from registry entries, for training and for acting."""

from collections.abc import Sequence

import torch
from torch import Tensor

from m3dt.config import Config, ModelConfig, MoEConfig
from m3dt.models import PromptDT, add_mixtures, make_model
from m3dt.runs.registry import Entry, Registry
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
    model = _build_root(registry, root)
    if entry.key == root.key:
        return model
    check_parent(registry, entry, root)
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
    model = _build_root(registry, root)
    first = _moe_of(experts[0], len(experts))
    add_mixtures(model, len(experts), routed=False, moe=first)
    for number, entry in enumerate(experts):
        check_parent(registry, entry, root)
        kind = _moe_of(entry, len(experts)).expert
        if kind != first.expert:
            raise UserError(
                f"{registry.run}: {entry.key} has moe.expert={kind}, but {experts[0].key} has "
                f"moe.expert={first.expert}. Train all experts with one of them."
            )
        load_expert(model, number, registry.tensors(entry))
    return model


def _build_root(registry: Registry, root: Entry) -> PromptDT:
    """Build a backbone or a baseline."""
    model = make_model(ModelConfig(**root.settings["model"]), len(root.tasks))
    if root.kind == "baseline" and "moe" in root.settings:
        moe = MoEConfig(**root.settings["moe"])
        add_mixtures(model, moe.num_experts, routed=True, moe=moe)
    model.load_state_dict(registry.tensors(root))
    return model


def _add_router(model: PromptDT, registry: Registry, root: Entry, entry: Entry) -> None:
    """Add a router and its experts to a backbone."""
    moe = _moe_of(entry, entry.settings["moe"]["num_experts"])
    add_mixtures(model, moe.num_experts, routed=True, moe=moe)
    if moe.training == "frozen_experts":  # otherwise the router's entry holds experts of its own
        keys = [key.split("/") for key in entry.parents if key.startswith("expert/")]
        for number, (kind, name) in enumerate(keys):
            expert = registry.get(kind, name)
            check_parent(registry, entry, expert)
            check_parent(registry, expert, root)
            load_expert(model, number, registry.tensors(expert))
    weights = registry.tensors(entry)
    for layer, mixture in enumerate(model.mixtures):
        missing, unknown = mixture.load_state_dict(_layer(weights, layer), strict=False)
        assert not unknown and not any(name.startswith("router.") for name in missing)


def _moe_of(entry: Entry, num_experts: int) -> MoEConfig:
    """Return how an entry's experts are built; stage 2 records only some of these settings."""
    return MoEConfig(**{**entry.settings["moe"], "num_experts": num_experts})


def load_expert(model: PromptDT, number: int, weights: dict[str, Tensor]) -> None:
    """Give a model's expert its trained weights."""
    for layer, mixture in enumerate(model.mixtures):
        mixture.experts.load_expert(number, _layer(weights, layer))


def check_parent(registry: Registry, entry: Entry, parent: Entry) -> None:
    """Refuse a model that was trained on another parent than the registered one."""
    if entry.parents.get(parent.key) != parent.hash:
        raise UserError(
            f"{registry.run}: {entry.key} was trained on another {parent.key} than the one "
            f"registered now. Delete {registry.folder / entry.kind / entry.name} and train it "
            "again, or use another run=FOLDER."
        )


def _layer(weights: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    prefix = f"{layer}."
    return {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
