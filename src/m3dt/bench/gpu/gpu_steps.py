"""Time per optimiser step, as `m3dt.training` runs it: the plain model, eager, graphs, compiled."""

import gc
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch

from m3dt.bench.devices import PRECISIONS, Meter
from m3dt.bench.gpu.outcomes import NEEDS_GPU, OK, Outcome, attempt, not_measured
from m3dt.bench.gpu.site import Site
from m3dt.bench.gpu.workloads import (
    PRECISION,
    Workload,
    build_workload,
    config_of,
    fit_workload,
)
from m3dt.bench.steps import training_step
from m3dt.evaluation.costs import count_flops
from m3dt.stages.stage import plain_predictions

PART = "steps"
FORMS = {
    "plain": ("compute.shortcuts=off", "compute.graph=off", "compute.compile=off"),
    "eager": ("compute.graph=off", "compute.compile=off"),
    "graph": ("compute.graph=on", "compute.compile=off"),
    "compiled": ("compute.graph=on", "compute.compile=on"),
}


class Stopwatch(pl.Callback):
    """Times steps between the ends of chunks, when the device has finished, and ends the training.

    Args:
        seconds: That are timed, after as many seconds of warm-up.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._started = 0.0
        self._ends: list[tuple[int, float]] = []  # step and time

    def next_step(self, step: int) -> int | None:
        """Return the step at which this callback must be called: none."""
        return None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        self._ends.append((trainer.global_step, time.perf_counter()))
        elapsed = self._ends[-1][1] - self._ends[0][1]
        trainer.should_stop = elapsed >= 2 * self.seconds and len(self._ends) > 3

    def measured(self) -> dict[str, float]:
        """Return seconds per step in the steady state, and those of the first chunk, a step."""
        first, (last_step, last) = self._ends[0][1], self._ends[-1]
        warm = [end for end in self._ends[:-1] if end[1] - first >= self.seconds]
        step, begin = warm[0] if warm else self._ends[-2]
        return {
            "seconds_per_step": (last - begin) / (last_step - step),
            "timed_steps": last_step - step,
            "setup_seconds": first - self._started,
        }


def name_of_step(workload: Workload, form: str) -> str:
    """Return the name of a measurement."""
    return f"{workload.name}, {form}"


def measure_steps(site: Site, workload: Workload, forms: Sequence[str]) -> Iterator[Outcome]:
    """Time the steps of a stage in some of `FORMS`, one after the other."""
    counted = attempt(PART, f"{workload.name}, FLOPs", partial(_flops, site, workload))
    if counted["status"] != OK:
        yield counted
    for form in forms:
        name = name_of_step(workload, form)
        if form in ("graph", "compiled") and not site.on_gpu:
            yield not_measured(PART, name, NEEDS_GPU)
            continue
        flops = counted["measured"].get("plain" if form == "plain" else "shortcuts")
        yield attempt(PART, name, partial(_time, site, workload, form, flops))


def _time(site: Site, workload: Workload, form: str, flops: int | None) -> dict[str, Any]:
    run = workload.name.replace(", ", "-").replace(" ", "") + f"-{form}"
    config = config_of(site, workload, run, *FORMS[form])
    meter, watch = Meter(site.device), Stopwatch(site.sizes.seconds)
    torch.compiler.reset()
    gc.collect()  # a stage refers to itself, so the last one may still be there
    meter.reset()
    fit_workload(config, workload, watch)
    measured = watch.measured()
    seconds, peak = measured["seconds_per_step"], site.peak(PRECISION)
    return {
        **measured,
        "segments_per_second": workload.num_segments / seconds,
        "peak_bytes": meter.peak_bytes(),
        "flops": flops,
        "utilization": flops / seconds / 1e9 / peak if flops and peak else None,
        "precision": PRECISION,
    }


def _flops(site: Site, workload: Workload) -> dict[str, Any]:
    """Count the operations of an eager step's matrix products, by the shortcuts and plain."""
    config = config_of(site, workload, "flops")
    stage, data = build_workload(config, workload)
    data.place(torch.device(site.device), 0)
    stage.to(site.device)
    batch, dtype = data.gather(data.to_device(data.draws(0))), PRECISIONS[PRECISION]
    plain = partial(plain_predictions, stage.model, batch)
    return {
        "shortcuts": count_flops(training_step(stage, batch, dtype)),
        "plain": count_flops(training_step(stage, batch, dtype, plain)),
    }
