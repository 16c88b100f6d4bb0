"""The trainings that m3dt knows: what each needs, builds and registers."""

from collections.abc import Iterator, Sequence

import torch

from m3dt.config import Config
from m3dt.data import M3DTDataModule, TaskContext
from m3dt.models import PromptDT, add_mixtures, make_model
from m3dt.runs import MAIN, load_expert
from m3dt.runs.beginnings import load_beginning
from m3dt.stages import (
    BackboneStage,
    BaselineStage,
    HarmoStage,
    RouterStage,
    Stage,
    derive_seed,
)
from m3dt.training.job import TrainingJob
from m3dt.training.own_classes import stage_class
from m3dt.training.parents import (
    build_backbone,
    check_num_experts,
    trained_backbone,
    trained_experts,
)
from m3dt.training.run import Product, Run
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError


class BackboneJob(TrainingJob):
    """Stage 1: the backbone on all tasks, until its gradient conflict has peaked."""

    title, kind, section = "stage 1", "backbone", "stage1"
    begins = True
    stage_type = BackboneStage

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        check_num_experts(run)

    @classmethod
    def sections(cls, config: Config) -> tuple[str, ...]:
        return ("stage1",)

    def build(self, missing: Sequence[str]) -> tuple[Stage, M3DTDataModule]:
        config = self.run.config
        data = self.run.batches("stage1")
        torch.manual_seed(derive_seed(config.seed, BackboneStage.number))
        kind = stage_class(config, "stage1", BackboneStage)
        return kind(first_model(config), config.stage1, config.seed), data

    def products(self, stage: Stage) -> Iterator[Product]:
        yield whole_model(self.run, MAIN, stage)


class RouterJob(TrainingJob):
    """Stage 3: the routers on all tasks, over the frozen backbone and experts.

    With another `moe.training`, the experts train too: those of stage 2, or fresh ones.
    """

    title, kind, section = "stage 3", "router", "stage3"
    stage_type = RouterStage

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        backbone = trained_backbone(run, "stage3")
        ungrouped = run.config.moe.training == "ungrouped"
        experts = [] if ungrouped else trained_experts(run, backbone)
        self.parents = [backbone, *experts]

    @classmethod
    def sections(cls, config: Config) -> tuple[str, ...]:
        groups = () if config.moe.training == "ungrouped" else ("grouping",)
        return (*groups, "moe", "stage3")

    def build(self, missing: Sequence[str]) -> tuple[Stage, M3DTDataModule]:
        config, registry = self.run.config, self.run.registry
        data = self.run.batches("stage3")
        backbone, *experts = self.parents
        model = build_backbone(self.run, backbone)
        torch.manual_seed(derive_seed(config.seed, RouterStage.number))
        add_mixtures(model, config.moe.num_experts, routed=True, moe=config.moe)
        for number, expert in enumerate(experts):
            load_expert(model, number, registry, expert)
        train_experts = config.moe.training != "frozen_experts"
        kind = stage_class(config, "stage3", RouterStage)
        stage = kind(model, config.stage3, config.seed, train_experts)
        expert_of = {task: k for k, expert in enumerate(experts) for task in expert.tasks}
        stage.own_experts = [expert_of.get(task) for task in self.run.tasks]
        if config.moe.training == "ungrouped":
            stage.reset_experts()
        return stage, data

    def products(self, stage: Stage) -> Iterator[Product]:
        assert isinstance(stage, RouterStage)
        yield Product(MAIN, stage.weights(), self.run.tasks)


class BaselineJob(TrainingJob):
    """A method without stages: everything on all tasks at once."""

    kind, section = "baseline", "baseline"
    begins = True
    stage_type = BaselineStage

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        config = run.config
        self.title = config.method
        harmo, steps = config.harmodt, config.baseline.max_steps
        if config.method == "harmodt" and harmo.exchanged_share and steps <= harmo.update_every:
            raise UserError(
                f"{config.sources.of('harmodt.exchanged_share')}: harmodt.exchanged_share="
                f"{harmo.exchanged_share:g}: no update of the masks lies within "
                f"{counted(steps, 'step')}. Set "
                f"harmodt.update_every below baseline.max_steps."
            )

    @classmethod
    def sections(cls, config: Config) -> tuple[str, ...]:
        own = {"harmodt": ("harmodt",), "m3dt-end-to-end": ("moe",)}
        return ("baseline", *own.get(config.method, ()))

    @classmethod
    def models(cls, config: Config) -> tuple[str, ...]:
        return (config.method,)

    @classmethod
    def checkpoints(cls, config: Config) -> str:
        return config.method

    def build(self, missing: Sequence[str]) -> tuple[Stage, M3DTDataModule]:
        config, num_tasks = self.run.config, len(self.run.tasks)
        data = self.run.batches("baseline")
        torch.manual_seed(derive_seed(config.seed, BaselineStage.number))
        return build_baseline(config, num_tasks), data

    def products(self, stage: Stage) -> Iterator[Product]:
        product = whole_model(self.run, self.names[0], stage)
        if isinstance(stage, HarmoStage):
            product.extra["masks"] = {"packed": stage.masks.packed}
        yield product


def build_baseline(config: Config, num_tasks: int) -> BaselineStage:
    """Build the stage of a method without stages, with its first weights."""
    model = first_model(config, num_tasks)
    if config.method == "m3dt-end-to-end":
        add_mixtures(model, config.moe.num_experts, routed=True, moe=config.moe)
    if config.method == "harmodt":
        masked = stage_class(config, "baseline", HarmoStage)
        return masked(model, config.baseline, config.seed, config.harmodt, num_tasks)
    return stage_class(config, "baseline", BaselineStage)(model, config.baseline, config.seed)


def first_model(config: Config, num_tasks: int = 0) -> PromptDT:
    """Return a model without experts that begins to train: with fresh weights, or another run's."""
    model = make_model(config.model, num_tasks)
    if config.init_from:
        load_beginning(model, config.init_from)
    return model


def whole_model(run: Run, name: str, stage: Stage) -> Product:
    """Return a model that acts alone, with what it must know of its tasks."""
    context = TaskContext.from_store(run.store, run.config.loader, run.config.model)
    return Product(name, stage.model.state_dict(), run.tasks, {"tasks": context.tensors()})
