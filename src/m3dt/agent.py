"""A trained model with what it needs to act: `m3dt.load`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from m3dt.config import Config, ModelConfig
from m3dt.data.batch import Segment
from m3dt.data.context import TaskContext
from m3dt.errors import UserError
from m3dt.models import PromptDT
from m3dt.registry import Entry, Registry

MAIN = "main"  # name of the backbone, the grouping and the router of a run


@dataclass(frozen=True)
class Agent:
    """A model in evaluation mode, its registry entry, what it knows of its tasks, and its run."""

    model: PromptDT
    entry: Entry
    context: TaskContext
    run: str

    def __repr__(self) -> str:
        size = self.model.num_parameters()
        return f"Agent({self.entry.key}, {size:,} parameters, {len(self.context.tasks)} tasks)"

    @torch.no_grad()
    def predict_actions(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        attention_mask: Tensor,
        prompt_states: Tensor,
        prompt_actions: Tensor,
        prompt_returns_to_go: Tensor,
        prompt_timesteps: Tensor,
        prompt_attention_mask: Tensor,
    ) -> Tensor:
        """Predict the action of every timestep from normalised, padded inputs.

        Args:
            states: (B, T, 39).
            actions: (B, T, 8).
            returns_to_go: (B, T, 1), divided by the return scale.
            timesteps: (B, T).
            attention_mask: (B, T), 1 for real steps.
            prompt_states: (B, P, 39), and so on for the prompt's other parts.
            prompt_actions: (B, P, 8).
            prompt_returns_to_go: (B, P, 1).
            prompt_timesteps: (B, P).
            prompt_attention_mask: (B, P).

        Returns:
            Actions in [-1, 1], (B, T, 8).
        """
        segment = Segment(states, actions, returns_to_go, timesteps, attention_mask)
        prompt = Segment(
            prompt_states,
            prompt_actions,
            prompt_returns_to_go,
            prompt_timesteps,
            prompt_attention_mask,
        )
        return self.model(segment, prompt)


def load(
    run: str | Path,
    kind: str | None = None,
    name: str | None = None,
    device: str | torch.device = "cpu",
) -> Agent:
    """Load a trained model of a run, verified, ready to act.

    Args:
        run: The run's folder.
        kind: `router` (all of M3DT), `expert` (backbone and one expert) or `backbone`; by default
            the first of these that the run has trained.
        name: Name within the kind; an expert's number, by default the lowest.
        device: Where the model goes.

    Raises:
        UserError: The run has no such model, or its parts do not belong together.
    """
    registry = Registry(run)
    if kind is None:
        found = {entry.kind for entry in registry.entries()}
        kind = next((k for k in ("router", "expert", "backbone") if k in found), None)
        if kind is None:
            raise UserError(f"{run}: holds no trained model. Train one with `m3dt stage1`.")
    if kind == "expert" and name is None:
        name = next((entry.name for entry in registry.entries() if entry.kind == kind), "0")
    if kind not in ("backbone", "expert", "router"):
        raise UserError(f"kind={kind}: models that act are of kind backbone, expert or router")
    entry = registry.get(kind, name or MAIN)
    backbone = registry.get("backbone", MAIN)
    model = build_model(registry, backbone, entry)
    context = TaskContext.from_tensors(backbone.tasks, registry.tensors(backbone, "tasks"))
    return Agent(model.eval().to(device), entry, context, str(run))


def inference_device(config: Config) -> str:
    """Return `cuda` if there is one and `trainer.accelerator` does not rule it out, else `cpu`."""
    wanted = str(config.trainer.get("accelerator", "auto"))
    available = torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda")
    return "cuda" if available else "cpu"


def build_model(registry: Registry, backbone: Entry, entry: Entry) -> PromptDT:
    """Put a model together from the backbone and what stands on it.

    Raises:
        UserError: `entry` or one of its experts was trained on another backbone.
    """
    model = PromptDT(ModelConfig(**backbone.settings["model"]))
    model.load_state_dict(registry.tensors(backbone))
    if entry.kind == "backbone":
        return model
    check_parent(registry, entry, backbone)
    if entry.kind == "expert":
        add_experts(model, registry, [entry], routed=False)
        return model
    keys = [key.partition("/") for key in entry.parents if key.startswith("expert/")]
    experts = [registry.get(kind, name) for kind, _, name in keys]
    for expert in experts:
        check_parent(registry, entry, expert)
        check_parent(registry, expert, backbone)
    add_experts(model, registry, experts, routed=True)
    weights = registry.tensors(entry)
    for layer, mixture in enumerate(model.mixtures):
        assert mixture.router is not None
        mixture.router.load_state_dict(_layer(weights, layer))
    return model


def add_experts(model: PromptDT, registry: Registry, experts: list[Entry], routed: bool) -> None:
    """Give a backbone its trained experts, and fresh routers if `routed`."""
    model.add_mixtures(len(experts), routed)
    weights = [registry.tensors(expert) for expert in experts]
    for layer, mixture in enumerate(model.mixtures):
        parts = [_layer(w, layer) for w in weights]
        stacked = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        mixture.experts.load_state_dict(stacked)


def check_parent(registry: Registry, entry: Entry, parent: Entry) -> None:
    """Refuse a model that was trained on another parent than the one that is here now."""
    if entry.parents.get(parent.key) != parent.hash:
        raise UserError(
            f"{registry.run}: {entry.key} was trained on another {parent.key} than the one "
            f"registered now. Delete {registry.folder / entry.kind / entry.name} and train it "
            "again, or use another run=FOLDER."
        )


def _layer(weights: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    prefix = f"{layer}."
    return {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
