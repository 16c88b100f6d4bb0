"""A trained model with everything it needs to act: `m3dt.load`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from m3dt.data import DatasetStore
from m3dt.data.batch import Segment
from m3dt.data.context import TaskContext
from m3dt.models import PromptDT, is_built_in
from m3dt.models.routing import (
    GivenGates,
    PromptRouter,
    dense_gates,
    prompt_features,
    select,
    with_routers,
)
from m3dt.models.variants.task_masks import TaskMasks
from m3dt.runs.assemble import build_model
from m3dt.runs.entries import Entry
from m3dt.runs.registry import MAIN, Registry
from m3dt.runs.tensors import check_tensors
from m3dt.utils.errors import UserError
from m3dt.utils.products import warn_of_other_products

ACTING_KINDS = ("router", "expert", "backbone", "baseline")  # in the order of preference
_METHODS = {
    "backbone": "PromptDT",
    "expert": "PromptDT with one expert",
    "promptdt": "PromptDT",
    "mtdt": "MTDT",
    "harmodt": "HarmoDT",
    "bc": "BC",
    "bc-best": "BC on the best trajectories",
    "m3dt-end-to-end": "M3DT end to end",
}
_VARIANTS = {"unfrozen_experts": ", experts unfrozen", "ungrouped": ", ungrouped"}


@dataclass(frozen=True)
class Agent:
    """A model in evaluation mode, with the data of the tasks it was trained on."""

    model: PromptDT
    entry: Entry  # the model's registry entry
    context: TaskContext
    run: str  # the run's folder
    masks: TaskMasks | None = None  # which parameters serve which task, for HarmoDT
    history: str = "real_dims"  # how it remembers its actions (`evaluation.history`)

    def __repr__(self) -> str:
        size = self.model.num_parameters()
        return f"Agent({self.entry.key}, {size:,} parameters, {len(self.context.tasks)} tasks)"

    @property
    def method(self) -> str:
        """The method's name in the paper, with the class of a model of the user's."""
        path, name = (
            self.entry.settings.get("model", {}).get("class_path", ""),
            self._paper_method(),
        )
        own = path.rpartition(".")[2]
        if not own:
            return name
        return name.replace("PromptDT", own) if "PromptDT" in name else f"{name} ({own})"

    def _paper_method(self) -> str:
        entry = self.entry
        if entry.kind != "router":
            return _METHODS[entry.name if entry.kind == "baseline" else entry.kind]
        moe = entry.moe()
        grouping = entry.settings.get("grouping")
        name = "M3DT" + (f"-{grouping['method'].capitalize()}" if grouping else "")
        name += ", big experts" if moe.expert == "trunk" else ""
        name += f", top-{moe.top_k}" if moe.top_k else ""
        name += ", by prompt" if moe.router == "prompt" else ""
        return name + _VARIANTS.get(moe.training, "")

    def prompted_by(self, folder: str, share: float, tasks: Sequence[str]) -> Agent:
        """Return the agent with prompts from a dataset; see `TaskContext.with_prompts`.

        Raises:
            UserError: The dataset lacks a task, or cannot be read.
        """
        store = DatasetStore.open(folder, tasks)
        context = self.context.with_prompts(store, share, self.model.config)
        return replace(self, context=context)

    def model_for(self, task: str) -> PromptDT:
        """Return the model that acts in a task: a masked copy for HarmoDT.

        Raises:
            UserError: The model needs the task's mask, but was not trained on the task.
        """
        if self.masks is None:
            return self.model
        model = copy.deepcopy(self.model)
        self.masks.apply(model, self.context.index(task))
        return model

    @torch.no_grad()
    def predict(self, segment: Segment, prompt: Segment, task: str | None = None) -> Tensor:
        """Predict the action of every timestep from normalised, padded inputs.

        Args:
            segment: The trajectories so far, (B, T, ...). Returns-to-go are zero for models that
                are not conditioned on them, as `TaskInputs.prepare` makes them.
            prompt: A prompt for each of them, (B, P, ...).
            task: Name of their task; HarmoDT, MTDT and routers by prompts need it, these because
                they read states as they were before normalisation. A model of your own class gets
                its position where it is given.

        Returns:
            Actions in [-1, 1], (B, T, A).

        Raises:
            UserError: The method needs the task's name, or was not trained on the task.
        """
        by_prompt = self.model.prompt_router is not None
        needs_task = self.masks is not None or self.model.config.task_embedding or by_prompt
        if not needs_task and (task is None or is_built_in(self.model)):
            return self.model(segment, prompt)
        if task is None:
            raise UserError(f"{self.entry.key} needs the name of the task: give task=...")
        if by_prompt:
            numbers, weights = select(self.gates(prompt, task), "auto")
            assert numbers is not None
            chosen = dense_gates(numbers, weights, self.entry.moe().num_experts)
            routers = [GivenGates(chosen) for _ in self.model.mixtures]
            return with_routers(self.model, routers)(segment, prompt)
        states = segment.states
        index = torch.full((len(states),), self.context.index(task), device=states.device)
        return self.model_for(task)(segment, prompt, index)

    def gates(self, prompt: Segment, task: str) -> Tensor:
        """Return the gates that a router by prompts gives to episodes of a task.

        Args:
            prompt: A prompt for each of them, (B, P, ...).
            task: Name of the task.

        Returns:
            (B, E).

        Raises:
            UserError: The agent was not trained on the task.
        """
        router, context = self.model.prompt_router, self.context
        assert isinstance(router, PromptRouter), "this agent has no router by prompts"
        index, size = context.index(task), (len(prompt.states), -1)
        both = (context.prompt_mean[index], context.prompt_std[index])
        mean, std = (tensor.to(prompt.states.device).expand(size) for tensor in both)
        return router(prompt_features(prompt, mean, std))

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
        """Predict the action of every timestep; `predict` with a tensor per argument.

        Shapes are those of the fields of `Segment`: (B, T, ...), and (B, P, ...) for the prompts.
        """
        segment = Segment(states, actions, returns_to_go, timesteps, attention_mask)
        fields = (prompt_states, prompt_actions, prompt_returns_to_go, prompt_timesteps)
        return self.predict(segment, Segment(*fields, prompt_attention_mask), task)


def load(
    run: str | Path,
    kind: str | None = None,
    name: str | None = None,
    device: str | torch.device = "cpu",
) -> Agent:
    """Load a trained model of a run, verified and ready to act.

    Args:
        run: The run's folder.
        kind: `router` (all of M3DT), `expert` (backbone and one expert), `backbone` or `baseline`;
            by default the first of these that the run has trained.
        name: Name within the kind; of an expert its number, by default the lowest.
        device: Where the model goes.

    Raises:
        UserError: The run has no such model, or its parts do not belong together.
    """
    warn_of_other_products()
    registry = Registry(run)
    entry = _choose_entry(registry, kind, name)
    root = entry if entry.kind == "baseline" else registry.get("backbone", MAIN)
    return make_agent(registry, root, entry, build_model(registry, root, entry), device)


def make_agent(
    registry: Registry, root: Entry, entry: Entry, model: PromptDT, device: str | torch.device
) -> Agent:
    """Add to a model the data of its tasks, which its root holds."""
    context = TaskContext.empty()
    if "tasks.safetensors" in root.files:
        expected = TaskContext.expected_tensors(len(root.tasks), root.model.prompt_length)
        found = _checked(registry, root, "tasks", expected)
        context = TaskContext.from_tensors(root.tasks, found)
    masks = None
    if "masks.safetensors" in entry.files:
        packed = TaskMasks.expected(model, len(entry.tasks))
        masks = TaskMasks(model, _checked(registry, entry, "masks", {"packed": packed})["packed"])
    history = root.settings.get("history", "real_dims")  # `all_dims` for imported models
    # Experts that do not train may be kept in another layout.
    model = model.eval().requires_grad_(False).to(device)
    return Agent(model, entry, context, str(registry.run), masks, history)


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
    if name is None:
        name = next((entry.name for entry in entries if entry.kind == kind), MAIN)
    return registry.get(kind, name)
