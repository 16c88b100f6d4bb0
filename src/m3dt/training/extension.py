"""Extend a trained run by new tasks: experts for them, and a router by prompts that knows them.

The backbone and everything else that is registered stays as it is. The data of earlier tasks are
not needed: the registry keeps features of their prompts.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from m3dt.config import Config, MoEConfig
from m3dt.config.fields import Section, SettingError
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
        self._take_recorded()
        _check_widths(self)

    def _take_recorded(self) -> None:
        """Take settings from the agent's models, as they were first trained, unless overridden.

        The configuration that a run keeps is of its last training, which may have been another.

        Raises:
            UserError: An override is about the agent as a whole.
        """
        config, total = self.config, len(self.experts) + len(self.tasks)
        for key in ("method", "size", "compat"):
            if _is_override(config, key):
                raise UserError(
                    f"{config.sources[key]}: an extension does not change what its agent is. "
                    f"Leave out {key}."
                )
        first = self.registry.get("router", router_of(0)).settings
        recorded = {name: self.backbone.settings[name] for name in ("model", "loader")}
        recorded["stage2"] = self.experts[0].settings["stage2"]
        recorded["prompt_router"] = first["prompt_router"]
        for name, values in recorded.items():
            setattr(config, name, _merged(config, name, values))
        moe = _merged(config, "moe", first["moe"], num_experts=total, router="prompt")
        assert isinstance(moe, MoEConfig)
        config.moe = moe
        config.seed = config.seed if _is_override(config, "seed") else self.backbone.seed

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
                f"`{quoted('m3dt', 'stage3')} {self.config.option} "
                f"{quoted(f'run={self.folder}', 'moe.router=prompt')}`."
            )
        return found


def _is_override(config: Config, key: str) -> bool:
    return config.sources.get(key, "").startswith("override")


def _merged(config: Config, name: str, recorded: Mapping[str, Any], **fixed: Any) -> Section:
    """Return a section with recorded values, unless overrides give others, and fixed ones.

    Raises:
        UserError: They do not go together.
    """
    taken = {key: v for key, v in recorded.items() if not _is_override(config, f"{name}.{key}")}
    try:
        return replace(getattr(config, name), **{**taken, **fixed})
    except SettingError as error:
        source = config.sources.of(*(f"{name}.{key}" for key in error.values))
        raise UserError(f"{source}: {error.message(f'{name}.')}") from None


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
