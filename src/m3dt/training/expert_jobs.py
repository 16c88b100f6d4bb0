"""Stage 2's training: experts on the frozen backbone, each on its own task group."""

from collections.abc import Iterator, Sequence

from m3dt.config import Config
from m3dt.data import ExpertStreams, M3DTDataModule, TaskStream
from m3dt.models import add_mixtures
from m3dt.runs import MAIN, Entry
from m3dt.stages import ExpertStage, Stage
from m3dt.training.groups import GroupingJob
from m3dt.training.job import TrainingJob, complete
from m3dt.training.multi_device import devices_of, train_on_devices
from m3dt.training.own_classes import stage_class
from m3dt.training.parents import build_backbone, trained_backbone
from m3dt.training.resume import started_settings
from m3dt.training.run import Product, Run
from m3dt.utils.errors import UserError


class GroupsJob(TrainingJob):
    """Experts on the frozen backbone, each on a group of tasks.

    Attributes:
        backbone: Their backbone.
        groups: The tasks of each expert, by its number.
    """

    kind, section = "expert", "stage2"
    stage_type = ExpertStage
    backbone: Entry
    groups: dict[int, list[str]]

    def build(self, missing: Sequence[str]) -> tuple[Stage, M3DTDataModule]:
        config = self.run.config
        started = started_settings(self.run.checkpoints / self.checkpoints(config))
        experts = started["experts"] if started else [int(name) for name in missing]
        self.resumed_with = {"experts": experts}
        position = {task: i for i, task in enumerate(self.run.tasks)}
        streams = (TaskStream(k, tuple(position[task] for task in self.groups[k])) for k in experts)
        model = build_backbone(self.run, self.backbone)
        add_mixtures(model, len(experts), routed=False, moe=config.moe)
        stage = stage_class(config, "stage2", ExpertStage)(
            model, config.stage2, config.seed, experts
        )
        return stage, self.run.batches("stage2", ExpertStreams(tuple(streams)))

    def products(self, stage: Stage) -> Iterator[Product]:
        assert isinstance(stage, ExpertStage)
        for k, weights in stage.expert_weights().items():
            yield Product(str(k), weights, tuple(self.groups[k]))


class ExpertsJob(GroupsJob):
    """Stage 2: this shard's experts, each on its own task group."""

    title = "stage 2"

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
                f"Run `m3dt group {config.options}` once."
            )
        (grouping,) = complete(GroupingJob(run))
        self.groups = dict(enumerate(grouping.metrics["groups"]))
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
