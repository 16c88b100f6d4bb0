"""Stages at the paper's size on the synthetic dataset, trained as `m3dt.training` trains them."""

from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl

from m3dt.bench.gpu.site import QUIET, Site
from m3dt.bench.steps import build_stage
from m3dt.config import Config
from m3dt.data import DatasetStore, ExpertStreams, M3DTDataModule, TaskStream
from m3dt.stages import Stage
from m3dt.tasks import tasks_of
from m3dt.training.fit import fit

PRECISION = "bf16-mixed"


@dataclass(frozen=True)
class Workload:
    """The steps of a stage: `batch_size` segments, in stage 2 per expert.

    More than 16 segments are of 16 tasks.
    """

    stage: int
    num_experts: int = 0
    batch_size: int = 16

    @property
    def name(self) -> str:
        """Its name in results."""
        experts = f", {self.num_experts} experts" if self.num_experts else ""
        return f"stage {self.stage}{experts}, batch {self.batch_size}"

    @property
    def num_segments(self) -> int:
        """Segments of a step."""
        return self.batch_size * (self.num_experts if self.stage == 2 else 1)

    def settings(self) -> tuple[str, ...]:
        """Return the settings of its batches."""
        mixed = ("loader.sampling=mixed", "loader.tasks_per_batch=16")
        return (f"loader.batch_size={self.batch_size}", *(mixed if self.batch_size > 16 else ()))


def config_of(site: Site, workload: Workload, run: str, *more: str) -> Config:
    """Return the configuration of a run of a workload, with the dataset on the device."""
    fixed = (f"trainer.precision={PRECISION}", "loader.resident=on")
    return site.config(run, *site.sizes.model, *fixed, *workload.settings(), *more)


def fit_workload(config: Config, workload: Workload, callback: pl.Callback) -> None:
    """Train a stage with fresh weights until a callback ends the training."""
    stage, data = build_workload(config, workload)
    folder = Path(config.run) / "checkpoints" / "fit"
    folder.mkdir(parents=True)
    fit(config, stage, data, [callback], {}, folder, QUIET)


def build_workload(config: Config, workload: Workload) -> tuple[Stage, M3DTDataModule]:
    """Return a stage with fresh weights and its batches."""
    stage = build_stage(workload.stage, workload.num_experts, config.model)
    names = tasks_of(config)
    tasks = tuple(range(len(names)))
    streams: TaskStream | ExpertStreams = TaskStream(0, tasks)
    if workload.stage == 2:
        groups = (tasks[k :: workload.num_experts] for k in range(workload.num_experts))
        streams = ExpertStreams(tuple(TaskStream(k, group) for k, group in enumerate(groups)))
    store = DatasetStore.open(config.data, names)
    number = workload.stage
    return stage, M3DTDataModule(store, config.loader, config.model, 0, number, streams)
