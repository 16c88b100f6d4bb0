"""Trainings of the router by prompts: on all tasks of a run, or on new ones beside earlier ones."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from m3dt.config import Config
from m3dt.data import M3DTDataModule, TaskContext
from m3dt.models.routing import PromptRouter
from m3dt.plots.tensorboard import write_confusion
from m3dt.runs import BY_PROMPT
from m3dt.runs.assemble import expert_numbers
from m3dt.stages import PromptRouterStage, Stage, derive_seed
from m3dt.stages.gate_measures import measure_gates
from m3dt.stages.prompt_router import PROMPTS_KEPT, acting_features
from m3dt.training.job import TrainingJob
from m3dt.training.own_classes import stage_class
from m3dt.training.parents import build_backbone, trained_backbone, trained_experts
from m3dt.training.run import Product, Run


class RoutingJob(TrainingJob):
    """A router by prompts over the experts among its parents, which follow the backbone.

    Attributes:
        earlier: Tasks that take part by kept features of their prompts, without data.
    """

    title, kind, section = "router by prompts", "router", "prompt_router"
    stage_type = PromptRouterStage
    earlier: Sequence[str] = ()

    def kept_features(self, num_features: int) -> Tensor:
        """Return features of the earlier tasks' prompts, (tasks, prompts, F)."""
        return torch.zeros(0, PROMPTS_KEPT, num_features)

    def build(self, missing: Sequence[str]) -> tuple[Stage, M3DTDataModule]:
        run, config = self.run, self.run.config
        data = run.prompt_batches()
        backbone, *experts = self.parents
        model = build_backbone(run, backbone)
        torch.manual_seed(derive_seed(config.seed, PromptRouterStage.number))
        router = PromptRouter(model.config, len(experts), config.prompt_router.hidden)
        model.prompt_router = router
        numbers = expert_numbers(str(run.folder), experts)
        groups, earlier = ([numbers[t] for t in tasks] for tasks in (run.tasks, self.earlier))
        kept = self.kept_features(len(router.mean))
        self.context = TaskContext.from_store(run.store, config.loader, config.model)
        kind = stage_class(config, self.section, PromptRouterStage)
        settings = config.prompt_router
        acting = acting_features(self.context) if self.earlier else None
        stage = kind(model, settings, config.seed, self.context, groups, kept, earlier, acting)
        self.features = torch.cat([kept, stage.standardize(data)])
        return stage, data

    def products(self, stage: Stage) -> Iterator[Product]:
        assert isinstance(stage, PromptRouterStage)
        measured = measure_gates(stage.gates(self.context), stage.groups.tolist())
        if not self.earlier:  # otherwise most rows would be empty
            write_confusion(self.run.folder, measured["confusion"], stage.config.max_steps)
        whose = "the new tasks'" if self.earlier else "the agent's"
        shown = f"{100 * measured['accuracy']:.0f} % of {whose} prompts go to their own expert"
        self.run.console.print(f"{self.title}: {shown}")
        kept, metrics = {"features": {"features": self.features}}, {"gates": measured}
        yield Product(self.names[0], stage.weights(), self.run.tasks, kept, metrics)


class PromptRouterJob(RoutingJob):
    """In place of stage 3: the router by prompts, on the groups of the experts' tasks."""

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
