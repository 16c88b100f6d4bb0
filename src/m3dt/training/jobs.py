"""The trainings that m3dt knows: what each needs, builds and registers."""

from collections.abc import Iterator, Sequence

import torch

from m3dt.config import Config
from m3dt.data import ExpertStreams, M3DTDataModule, TaskContext, TaskStream
from m3dt.models import add_mixtures, make_model
from m3dt.models.routing import PromptRouter
from m3dt.plots.tensorboard import write_confusion
from m3dt.runs import BY_PROMPT, MAIN, load_expert
from m3dt.runs.assemble import expert_numbers
from m3dt.stages import (
    BackboneStage,
    BaselineStage,
    ExpertStage,
    HarmoStage,
    PromptRouterStage,
    RouterStage,
    Stage,
    derive_seed,
)
from m3dt.stages.gate_measures import measure_gates
from m3dt.training.groups import GroupingJob
from m3dt.training.job import TrainingJob, complete
from m3dt.training.multi_device import devices_of, train_on_devices
from m3dt.training.own_classes import stage_class
from m3dt.training.parents import (
    build_backbone,
    check_num_experts,
    trained_backbone,
    trained_experts,
)
from m3dt.training.resume import started_settings
from m3dt.training.run import Product, Run
from m3dt.utils.errors import UserError


class BackboneJob(TrainingJob):
    """Stage 1: the backbone on all tasks, until its gradient conflict has peaked."""

    title, kind, section = "stage 1", "backbone", "stage1"
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
        return kind(make_model(config.model), config.stage1, config.seed), data

    def products(self, stage: Stage) -> Iterator[Product]:
        yield whole_model(self.run, MAIN, stage)


class ExpertsJob(TrainingJob):
    """Stage 2: this shard's experts, each on its own task group."""

    title, kind, section = "stage 2", "expert", "stage2"
    stage_type = ExpertStage

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        config = run.config
        self.backbone = trained_backbone(run, "stage2")
        if config.moe.training == "ungrouped":
            self.none = "moe.training=ungrouped: experts train in stage 3. Nothing to do."
            return
        _, count = config.stage2.shard_numbers()
        if count > 1 and run.registry.find("grouping", MAIN) is None:
            raise UserError(
                f"{run.folder}: jobs that share stage 2 need the task groups first. "
                f"Run `m3dt group --conf {config.conf}` once."
            )
        (grouping,) = complete(GroupingJob(run))
        self.groups: list[list[str]] = grouping.metrics["groups"]
        self.parents = [self.backbone, grouping]

    @classmethod
    def sections(cls, config: Config) -> tuple[str, ...]:
        return ("grouping", "moe.num_experts", "moe.expert", "stage2")

    @classmethod
    def models(cls, config: Config) -> tuple[str, ...]:
        if config.moe.training == "ungrouped":
            return ()
        index, count = config.stage2.shard_numbers()
        return tuple(str(k) for k in range(index, config.moe.num_experts, count))

    @classmethod
    def checkpoints(cls, config: Config) -> str:
        index, count = config.stage2.shard_numbers()
        return cls.section if count == 1 else f"{cls.section}-{index}-of-{count}"

    def make(self, missing: Sequence[str]) -> None:
        devices = devices_of(self.run.config)
        if len(devices) > 1:
            train_on_devices(self.run, self.names, devices)
        else:
            super().make(missing)

    def build(self, missing: Sequence[str]) -> tuple[Stage, M3DTDataModule]:
        config = self.run.config
        started = started_settings(self.run.checkpoints / self.checkpoints(config))
        experts = started["experts"] if started else [int(name) for name in missing]
        self.resumed_with = {"experts": experts}
        position = {task: i for i, task in enumerate(self.run.tasks)}
        streams = (TaskStream(k, tuple(position[task] for task in self.groups[k])) for k in experts)
        model = build_backbone(self.run, self.backbone)
        add_mixtures(model, len(experts), routed=False, moe=config.moe)
        kind = stage_class(config, "stage2", ExpertStage)
        stage = kind(model, config.stage2, config.seed, experts)
        return stage, self.run.batches("stage2", ExpertStreams(tuple(streams)))

    def products(self, stage: Stage) -> Iterator[Product]:
        assert isinstance(stage, ExpertStage)
        for k, weights in stage.expert_weights().items():
            yield Product(str(k), weights, tuple(self.groups[k]))


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
        if config.moe.training == "ungrouped":
            stage.reset_experts()
        return stage, data

    def products(self, stage: Stage) -> Iterator[Product]:
        assert isinstance(stage, RouterStage)
        yield Product(MAIN, stage.weights(), self.run.tasks)


class PromptRouterJob(TrainingJob):
    """In place of stage 3: the router by prompts, on the groups of the experts' tasks."""

    title, kind, section = "router by prompts", "router", "prompt_router"
    stage_type = PromptRouterStage

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        backbone = trained_backbone(run, "stage3")
        self.parents = [backbone, *trained_experts(run, backbone)]

    @classmethod
    def sections(cls, config: Config) -> tuple[str, ...]:
        return ("grouping", "moe", "prompt_router")

    @classmethod
    def models(cls, config: Config) -> tuple[str, ...]:
        return (BY_PROMPT,)

    def build(self, missing: Sequence[str]) -> tuple[Stage, M3DTDataModule]:
        run, config = self.run, self.run.config
        data = run.prompt_batches()
        backbone, *experts = self.parents
        model = build_backbone(run, backbone)
        torch.manual_seed(derive_seed(config.seed, PromptRouterStage.number))
        model.prompt_router = PromptRouter(len(experts), config.prompt_router.hidden)
        numbers = expert_numbers(str(run.folder), experts)
        groups = [numbers[task] for task in run.tasks]
        context = TaskContext.from_store(run.store, config.loader, config.model)
        kind = stage_class(config, "prompt_router", PromptRouterStage)
        stage = kind(model, config.prompt_router, config.seed, context, groups)
        stage.standardize(data)
        return stage, data

    def products(self, stage: Stage) -> Iterator[Product]:
        assert isinstance(stage, PromptRouterStage)
        measured = measure_gates(stage.own_gates(), stage.groups.tolist())
        write_confusion(self.run.folder, measured["confusion"], stage.config.max_steps)
        shown = f"{100 * measured['accuracy']:.0f} % of the agent's prompts go to their own expert"
        self.run.console.print(f"{self.title}: {shown}")
        metrics = {"gates": measured}
        yield Product(BY_PROMPT, stage.weights(), self.run.tasks, metrics=metrics)


class BaselineJob(TrainingJob):
    """A method without stages: everything on all tasks at once."""

    kind, section = "baseline", "baseline"
    stage_type = BaselineStage

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        config = run.config
        self.title = config.method
        harmo, steps = config.harmodt, config.baseline.max_steps
        if config.method == "harmodt" and harmo.exchanged_share and steps <= harmo.update_every:
            raise UserError(
                f"{config.sources.of('harmodt.exchanged_share')}: harmodt.exchanged_share="
                f"{harmo.exchanged_share:g}: no update of the masks lies within {steps} steps. Set "
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
    """Build the stage of a method without stages, with fresh weights."""
    model = make_model(config.model, num_tasks)
    if config.method == "m3dt-end-to-end":
        add_mixtures(model, config.moe.num_experts, routed=True, moe=config.moe)
    if config.method == "harmodt":
        masked = stage_class(config, "baseline", HarmoStage)
        return masked(model, config.baseline, config.seed, config.harmodt, num_tasks)
    return stage_class(config, "baseline", BaselineStage)(model, config.baseline, config.seed)


def whole_model(run: Run, name: str, stage: Stage) -> Product:
    """Return a model that acts alone, with what it must know of its tasks."""
    context = TaskContext.from_store(run.store, run.config.loader, run.config.model)
    return Product(name, stage.model.state_dict(), run.tasks, {"tasks": context.tensors()})
