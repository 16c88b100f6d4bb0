"""A trained model with what it needs to act: `m3dt.load`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from m3dt.config import Config, ModelConfig, MoEConfig
from m3dt.data.batch import Segment
from m3dt.data.context import TaskContext
from m3dt.errors import UserError
from m3dt.models import PromptDT
from m3dt.models.task_masks import TaskMasks
from m3dt.registry import Entry, Registry

MAIN = "main"  # name of the backbone, the grouping and the router of a run
_ACTING = ("router", "expert", "backbone", "baseline")


@dataclass(frozen=True)
class Agent:
    """A model in evaluation mode, its registry entry, what it knows of its tasks, and its run."""

    model: PromptDT
    entry: Entry
    context: TaskContext
    run: str
    masks: TaskMasks | None = None
    """Which parameters serve which task, for HarmoDT."""
    history: str = "real_dims"
    """What it should remember of its actions (`evaluation.history`)."""

    def __repr__(self) -> str:
        size = self.model.num_parameters()
        return f"Agent({self.entry.key}, {size:,} parameters, {len(self.context.tasks)} tasks)"

    def model_for(self, task: str) -> PromptDT:
        """Return the model that acts in a task: a masked copy for HarmoDT.

        Raises:
            UserError: The agent was not trained on the task, and needs to have been.
        """
        if self.masks is None:
            return self.model
        model = copy.deepcopy(self.model)
        self.masks.apply(model, self.context.index(task))
        return model

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
        task: str | None = None,
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
            task: Name of the rows' task, for methods that are told it by a number or a mask.

        Returns:
            Actions in [-1, 1], (B, T, 8).

        Raises:
            UserError: The method needs the task's name, or does not know it.
        """
        told = self.masks is not None or self.model.config.task_embedding > 0
        if told and task is None:
            raise UserError(f"{self.entry.key} is told its task by name: give task=...")
        segment = Segment(states, actions, returns_to_go, timesteps, attention_mask)
        prompt = Segment(
            prompt_states,
            prompt_actions,
            prompt_returns_to_go,
            prompt_timesteps,
            prompt_attention_mask,
        )
        if not told or task is None:
            return self.model(segment, prompt)
        index = torch.full((len(states),), self.context.index(task), device=states.device)
        return self.model_for(task)(segment, prompt, index)


def load(
    run: str | Path,
    kind: str | None = None,
    name: str | None = None,
    device: str | torch.device = "cpu",
) -> Agent:
    """Load a trained model of a run, verified, ready to act.

    Args:
        run: The run's folder.
        kind: `router` (all of M3DT), `expert` (backbone and one expert), `backbone` or `baseline`;
            by default the first of these that the run has trained.
        name: Name within the kind; an expert's number, by default the lowest.
        device: Where the model goes.

    Raises:
        UserError: The run has no such model, or its parts do not belong together.
    """
    registry = Registry(run)
    entries = registry.entries()
    if kind is None:
        found = {entry.kind for entry in entries}
        kind = next((k for k in _ACTING if k in found), None)
        if kind is None:
            raise UserError(f"{run}: holds no trained model. Train one with `m3dt stage1`.")
    if kind not in _ACTING:
        raise UserError(f"kind={kind}: models that act are of kind {', '.join(_ACTING)}")
    if name is None:
        name = next((entry.name for entry in entries if entry.kind == kind), MAIN)
    entry = registry.get(kind, name)
    root = entry if kind == "baseline" else registry.get("backbone", MAIN)
    model = build_model(registry, root, entry)
    context = TaskContext.empty()
    if "tasks.safetensors" in root.files:
        context = TaskContext.from_tensors(root.tasks, registry.tensors(root, "tasks"))
    masks = None
    if "masks.safetensors" in entry.files:
        masks = TaskMasks(model, registry.tensors(entry, "masks")["packed"])
    history = root.settings.get("history", "real_dims")  # of imported models: all_dims
    return Agent(model.eval().to(device), entry, context, str(run), masks, history)


def inference_device(config: Config) -> str:
    """Return `cuda` if there is one and `trainer.accelerator` does not rule it out, else `cpu`."""
    wanted = str(config.trainer.get("accelerator", "auto"))
    available = torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda")
    return "cuda" if available else "cpu"


def build_model(registry: Registry, root: Entry, entry: Entry) -> PromptDT:
    """Put a model together from the backbone and what stands on it.

    Args:
        registry: Where the weights are.
        root: The backbone, or a baseline.
        entry: The model that shall act: `root` itself, an expert or a router.

    Raises:
        UserError: `entry` or one of its experts was trained on another backbone.
    """
    model = PromptDT(ModelConfig(**root.settings["model"]), len(root.tasks))
    if root.kind == "baseline" and "moe" in root.settings:
        moe = MoEConfig(**root.settings["moe"])
        model.add_mixtures(moe.num_experts, routed=True, moe=moe)
    model.load_state_dict(registry.tensors(root))
    if entry.key == root.key:
        return model
    check_parent(registry, entry, root)
    if entry.kind == "expert":
        model.add_mixtures(1, routed=False, moe=_moe_of(entry, 1))
        load_expert(model, 0, registry.tensors(entry))
        return model
    moe = _moe_of(entry, entry.settings["moe"]["num_experts"])
    model.add_mixtures(moe.num_experts, routed=True, moe=moe)
    weights = registry.tensors(entry)
    if moe.training == "frozen_experts":  # else they are the router entry's own
        keys = [key.split("/") for key in entry.parents if key.startswith("expert/")]
        for number, (kind, name) in enumerate(keys):
            expert = registry.get(kind, name)
            check_parent(registry, entry, expert)
            check_parent(registry, expert, root)
            load_expert(model, number, registry.tensors(expert))
    for layer, mixture in enumerate(model.mixtures):
        missing, unknown = mixture.load_state_dict(_layer(weights, layer), strict=False)
        assert not unknown and not any(name.startswith("router.") for name in missing)
    return model


def _moe_of(entry: Entry, num_experts: int) -> MoEConfig:
    """Return how an entry's experts are built; stage 2 records a part of it alone."""
    return MoEConfig(**{**entry.settings["moe"], "num_experts": num_experts})


def load_expert(model: PromptDT, number: int, weights: dict[str, Tensor]) -> None:
    """Give a model's expert its trained weights."""
    for layer, mixture in enumerate(model.mixtures):
        mixture.experts.load_expert(number, _layer(weights, layer))


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
