"""A trained model with what it needs to act: `m3dt.load`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from m3dt.data.batch import Segment
from m3dt.data.context import TaskContext
from m3dt.models import PromptDT
from m3dt.models.variants.task_masks import TaskMasks
from m3dt.runs.assemble import build_model
from m3dt.runs.registry import MAIN, Entry, Registry
from m3dt.utils.errors import UserError

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
