"""Seconds of grouping by gradients and of a conflict record, over all tasks."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import lightning.pytorch as pl

from m3dt.bench.gpu.compared_runs import train_here
from m3dt.bench.gpu.outcomes import Outcome, attempt
from m3dt.bench.gpu.site import Site
from m3dt.bench.gpu.workloads import Workload, config_of, fit_workload
from m3dt.callbacks import GradientConflictCallback
from m3dt.data import M3DTDataModule
from m3dt.stages import Stage

PART = "measures"
GROUPING, CONFLICT = "all tasks grouped by gradients", "a conflict record of all tasks"


class TimedConflict(GradientConflictCallback):
    """Takes a few records of conflict and ends the training.

    Attributes:
        seconds: Of each record.
    """

    RECORDS = 3

    def __init__(self) -> None:
        super().__init__(every_n_steps=1)
        self.seconds: list[float] = []

    def record(self, trainer: pl.Trainer, stage: Stage, data: M3DTDataModule) -> dict[str, Any]:
        start = time.perf_counter()
        record = super().record(trainer, stage, data)  # its values are read from the device
        self.seconds.append(time.perf_counter() - start)
        trainer.should_stop = len(self.seconds) == self.RECORDS
        return record


def measure_measures(site: Site) -> Iterator[Outcome]:
    """Time the grouping of all tasks, and a conflict record."""
    yield attempt(PART, GROUPING, partial(_grouping, site))
    yield attempt(PART, CONFLICT, partial(_conflict, site))


def _grouping(site: Site) -> dict[str, Any]:
    """Time `m3dt group`, from opening the dataset to the registered groups."""
    sizes = site.sizes
    groups, batches = min(sizes.experts, len(site.tasks)), sizes.probe_batches
    settings = (*sizes.model, "stage1.max_steps=2", f"moe.num_experts={groups}")
    overrides = site.overrides("grouping", *settings, f"grouping.num_batches={batches}")
    train_here(overrides, "stage1")
    start = time.perf_counter()
    train_here(overrides, "group")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "tasks": len(site.tasks), "groups": groups}


def _conflict(site: Site) -> dict[str, Any]:
    timed, workload = TimedConflict(), Workload(1)
    fit_workload(config_of(site, workload, "conflict"), workload, timed)
    first, *_, last = timed.seconds
    return {"seconds": last, "first_seconds": first, "tasks": len(site.tasks)}
