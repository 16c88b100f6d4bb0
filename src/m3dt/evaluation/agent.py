"""A trained model with everything it needs to act."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from m3dt.config import EvaluationConfig, LoaderConfig
from m3dt.data import DatasetStore
from m3dt.data.batch import Segment
from m3dt.data.context import TaskContext
from m3dt.data.prompted_task import UNSEEN, PromptedTask
from m3dt.evaluation.rules import rules_of
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
from m3dt.runs.entries import Entry
from m3dt.runs.registry import BY_PROMPT
from m3dt.tasks import Trajectory
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError
from m3dt.utils.numbers import finite_number

if TYPE_CHECKING:
    from m3dt.evaluation.actor import Actor

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
    described: tuple[PromptedTask, ...] = ()  # by `with_task`; they precede those of the context

    def __repr__(self) -> str:
        size = self.model.num_parameters()
        tasks = counted(len(self.context.tasks), "task")
        return f"Agent({self.entry.key}, {size:,} parameters, {tasks})"

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
        name += ", extended" if entry.name.startswith(f"{BY_PROMPT}-") else ""
        return name + _VARIANTS.get(moe.training, "")

    @property
    def loader(self) -> LoaderConfig:
        """The settings of its training's batches; they say how states are normalised."""
        return LoaderConfig(**self.entry.settings.get("loader", {}))

    def prompted_by(self, folder: str, share: float, tasks: Sequence[str]) -> Agent:
        """Return the agent with prompts from a dataset, for tasks that it was trained on or not.

        Args:
            folder: The dataset. Its states' mean and deviation normalise a task that the agent was
                not trained on.
            share: Which of its trajectories; see `PromptedTask.prompted_by`.
            tasks: Names.

        Raises:
            UserError: The dataset lacks a task, or cannot be read; or the agent's method cannot act
                in a task that it was not trained on.
        """
        agent = self
        for store in DatasetStore.open(folder, tasks).tasks:
            if store.spec.name in self.context.tasks:
                task = self.task(store.spec.name)
            else:
                task = PromptedTask.from_store(store, self.model.config, self.loader)
            agent = agent.with_task(task.prompted_by(store, share, self.loader))
        return agent

    def task(self, name: str) -> PromptedTask:
        """Return what the agent knows of a task.

        Raises:
            UserError: It knows nothing.
        """
        own = (task for task in self.described if task.spec.name == name)
        return next(own, None) or self.context.task(name, self.model.config)

    def with_task(self, task: PromptedTask) -> Agent:
        """Return the agent with a task, in place of what it knew under that name.

        Raises:
            UserError: The agent was not trained on the task, and its method reads the task's number
                or mask.
        """
        if task.index == UNSEEN and (self.masks is not None or self.model.config.task_embedding):
            raise UserError(
                f"{self.method} has a part of its own for each task that it was trained on, so it "
                f"cannot act by a prompt in another one. It knows {', '.join(self.context.tasks)}."
            )
        return replace(self, described=(task, *self.described))

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
        index = torch.full((len(states),), self.task(task).index, device=states.device)
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
        router, states = self.model.prompt_router, prompt.states
        assert isinstance(router, PromptRouter), "this agent has no router by prompts"
        normalization = self.task(task).prompt_normalization
        mean, std = (
            torch.from_numpy(array).to(states.device).expand(len(states), -1)
            for array in (normalization.mean, normalization.std)
        )
        return router(prompt_features(prompt, mean, std))

    def actor(
        self,
        task: str | None = None,
        episodes: int = 1,
        seed: int | None = None,
        prompt: Trajectory | Sequence[Trajectory] | None = None,
        target: float | None = None,
        return_scale: float | None = None,
        config: EvaluationConfig | None = None,
    ) -> Actor:
        """Return what acts by hand, step by step, in one or several episodes.

        Args:
            task: Name of a task that the agent was trained on.
            episodes: How many run in step, whatever `config` says: its number is an evaluation's.
            seed: Gives the actor's `seeds`, from which `m3dt.evaluate` starts the environments; by
                default that of `config`, 0.
            prompt: In place of `task`, one or several whole episodes of a task without a name; see
                `PromptedTask.from_trajectories`. Their states alone give the normalisation.
            target: The return that the agent is asked for. By default the task's, as `config` says,
                or the best return of the prompts.
            return_scale: With a prompt, the divisor of returns; by default a fifth of the largest
                absolute return of the prompts.
            config: Further settings, as for `m3dt.evaluate`.

        Raises:
            UserError: The agent was not trained on the task; its method cannot act by a prompt;
                prompts do not fit together or the model; or arguments contradict each other, are
                of another type or out of range.
        """
        from m3dt.evaluation.actor import Actor  # it imports this module

        rules = rules_of(config, episodes, seed)
        if (task is None) == (prompt is None):
            raise UserError("actor: give the name of a task, or else prompt=Trajectory")
        target = None if target is None else finite_number("actor: target", target)
        if prompt is None:
            if return_scale is not None:
                raise UserError("actor: return_scale goes with a prompt; a task has its own")
            assert task is not None
            return Actor(self, task, rules, target)
        if rules.prompts:
            raise UserError("actor: a prompt and evaluation.prompts contradict each other")
        given: Any = prompt
        prompts = list(given) if isinstance(given, Iterable) else [given]
        own = PromptedTask.from_trajectories(
            prompts, self.model.config, self.loader, target_return=target, return_scale=return_scale
        )
        return Actor(self.with_task(own), own.spec.name, rules, target)
