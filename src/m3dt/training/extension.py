"""Extend a trained run by new tasks: experts for them, and a router by prompts that knows them.

The backbone and everything else that is registered stays as it is. The data of earlier tasks are
not needed: the registry keeps features of their prompts.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from rich.console import Console
from torch import Tensor

from m3dt.config import Config
from m3dt.data import TaskContext
from m3dt.runs import MAIN, Entry, Registry
from m3dt.runs.generations import experts_of, extension_by, extension_file, router_of
from m3dt.runs.layout import check_run_folder
from m3dt.runs.tensors import check_tensors
from m3dt.stages import Stage
from m3dt.stages.prompt_router import PROMPTS_KEPT
from m3dt.tasks import get_task
from m3dt.training.expert_jobs import GroupsJob
from m3dt.training.job import complete
from m3dt.training.ranks import is_first_rank, taking_place
from m3dt.training.routing_jobs import RoutingJob
from m3dt.training.run import Product, Run
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError
from m3dt.utils.files import fingerprint, sole_writer
from m3dt.utils.processes import threads_within_quota
from m3dt.utils.products import warn_of_other_products
from m3dt.utils.shell import quoted


class Extension(Run):
    """A run that learns new tasks: those of its configuration.

    Attributes:
        number: Of the generation that this makes, from 1.
        router: The router of the generation before.
        experts: All experts of that.

    Raises:
        UserError: The run cannot be extended, or another extension is not finished.
    """

    def __init__(self, config: Config, console: Console) -> None:
        super().__init__(config, console)
        self.backbone = self.registry.get("backbone", MAIN)
        self.number = extension_by(self.registry, list(self.tasks))
        self.config_file = extension_file(self.number)
        self.router = self._router(router_of(self.number - 1))
        self.experts = experts_of(self.registry, self.router)
        _take_recorded(config, self.backbone, self.experts)
        total = len(self.experts) + len(self.tasks)
        config.moe = replace(config.moe, num_experts=total, router="prompt")
        _check_widths(self)

    def _router(self, name: str) -> Entry:
        found = self.registry.find("router", name)
        if found is None and "imported" in self.backbone.settings:
            tasks = f"tasks=[{','.join(self.tasks)}]"
            data = ("--prompts", self.config.data, tasks)
            evaluating = quoted("m3dt", "evaluate", "--run", self.folder, *data)
            raise UserError(
                f"{self.folder}: its models were imported, without the task groups that a router "
                "by prompts learns from, so that it cannot be extended. A run that m3dt trained "
                "with moe.router=prompt can. The imported models act in new tasks by their "
                f"prompts: `{evaluating}`."
            )
        if found is None:
            raise UserError(
                f"{self.folder}: only a run with a router by prompts can be extended. Train one: "
                f"m3dt stage3 {self.config.option} run={self.folder} moe.router=prompt."
            )
        return found


def _take_recorded(config: Config, backbone: Entry, experts: Sequence[Entry]) -> None:
    """Take what new experts share with the agent from its models, unless overrides give it.

    The configuration that a run keeps is of its last training, which may have been a baseline's.
    """
    recorded = {name: backbone.settings.get(name, {}) for name in ("model", "loader")}
    recorded["moe"] = {"expert": experts[0].moe().expert}
    for name, values in recorded.items():
        asked = {key for key in values if _is_override(config, f"{name}.{key}")}
        taken = {key: value for key, value in values.items() if key not in asked}
        setattr(config, name, replace(getattr(config, name), **taken))
    config.seed = config.seed if _is_override(config, "seed") else backbone.seed


def _is_override(config: Config, key: str) -> bool:
    return config.sources.get(key, "").startswith("override")


def _check_widths(run: Extension) -> None:
    model = run.backbone.model
    for spec in map(get_task, run.tasks):
        if spec.state_dim > model.state_dim or spec.action_dim > model.action_dim:
            raise UserError(
                f"--tasks {spec.name}: has {counted(spec.state_dim, 'state')} and "
                f"{counted(spec.action_dim, 'action')}, "
                f"but the backbone of {run.folder} takes {model.state_dim} and {model.action_dim}. "
                "Train a run with model.state_dim and model.action_dim as wide as later tasks."
            )


class NewExpertsJob(GroupsJob):
    """An expert for each new task."""

    title = "new experts"

    def __init__(self, run: Extension) -> None:
        super().__init__(run)
        self.backbone = run.backbone
        first = len(run.experts)
        self.groups = {first + i: [task] for i, task in enumerate(run.tasks)}
        self.names = tuple(map(str, self.groups))
        self.parents = [run.backbone]

    @classmethod
    def sections(cls, config: Config) -> tuple[str, ...]:
        return ("moe.expert", "stage2")

    @classmethod
    def checkpoints(cls, config: Config) -> str:
        return f"stage2-{fingerprint(config.tasks)[:8]}"

    def products(self, stage: Stage) -> Iterator[Product]:
        config = self.run.config
        context = TaskContext.from_store(self.run.store, config.loader, config.model)
        for product, task in zip(super().products(stage), context.split(), strict=True):
            yield replace(product, extra={"tasks": task.tensors()})


class NewRouterJob(RoutingJob):
    """A router by prompts over all experts, from the features of earlier tasks and new data."""

    def __init__(self, run: Extension, experts: Sequence[Entry]) -> None:
        super().__init__(run)
        self.names = (router_of(run.number),)
        self.before = run.router
        every = [*run.experts, *experts]
        self.parents = [run.backbone, *every]
        added = (task for expert in every for task in expert.tasks)
        known = dict.fromkeys([*run.backbone.tasks, *added])  # in the order of the kept features
        self.earlier = [task for task in known if task not in run.tasks]

    @classmethod
    def sections(cls, config: Config) -> tuple[str, ...]:
        return ("moe", "prompt_router")

    @classmethod
    def checkpoints(cls, config: Config) -> str:
        return f"prompt_router-{fingerprint(config.tasks)[:8]}"

    def kept_features(self, num_features: int) -> Tensor:
        """Return features of the earlier tasks' prompts, (tasks, prompts, F), from the registry.

        Raises:
            UserError: The registry lacks them, or they are of other tasks.
        """
        registry, stem = self.run.registry, "features"
        if f"{stem}.safetensors" not in self.before.files:
            raise UserError(
                f"{registry.run}: {self.before.key} was trained without keeping features of its "
                f"prompts. Delete {registry.folder / self.before.key} and train it again."
            )
        found = registry.tensors(self.before, stem)
        shape = (len(self.earlier), PROMPTS_KEPT, num_features)
        expected = {stem: torch.empty(shape, device="meta")}
        check_tensors(registry.file(self.before, stem), found, expected)
        return found[stem].float()


def extend(config: Config, console: Console) -> None:
    """Extend a run by the tasks of a configuration; repeat nothing that is finished.

    Args:
        config: The run's, with the new tasks and the folder of their data.
        console: Receives progress and messages.

    Raises:
        UserError: The run cannot be extended by these tasks, or settings or data do not fit.
        RunError: Training stopped before its end.
    """
    warn_of_other_products()
    folder = Registry(config.run).run
    check_run_folder(folder)
    with threads_within_quota(), taking_place(config), ExitStack() as held:
        if is_first_rank():  # a generation has its number once its configuration is written
            held.enter_context(sole_writer(folder / "checkpoints"))
        run = Extension(config, console)
        console.print(
            f"extension {run.number}: {counted(len(run.store.tasks), 'task')}", highlight=False
        )
        run.begin()
        experts = complete(NewExpertsJob(run))
        complete(NewRouterJob(run, experts))
