"""A whole method by one call: the stages in turn, or a baseline's one training."""

from __future__ import annotations

import torch

from m3dt.config import BASELINES
from m3dt.data import TaskContext
from m3dt.errors import UserError
from m3dt.fitting import build_callbacks, fit
from m3dt.pipeline.stages import stage1, stage2, stage3
from m3dt.registry import Entry
from m3dt.resuming import is_first_rank
from m3dt.run import Run
from m3dt.stages import HarmoStage, baseline_stage, seed_of


def train(run: Run) -> Entry:
    """Train the configuration's method from its first stage to its last."""
    if run.config.method in BASELINES:
        return baseline(run)
    stage1(run)
    stage2(run)
    return stage3(run)


def baseline(run: Run) -> Entry:
    """Train a method without stages on all tasks."""
    config, name = run.config, run.config.method
    callbacks = build_callbacks(config, "baseline")
    sections = {"harmodt": ("harmodt",), "m3dt-end-to-end": ("moe",)}.get(name, ())
    settings = run.settings("baseline", *sections)
    done = run.finished("baseline", name, settings)
    if done is not None:
        run.console.print(f"{name} is finished: step {done.step}. Nothing to do.")
        return done
    data = run.data_for(0)
    if name == "harmodt" and config.loader.sampling != "one_task":
        raise UserError(
            f"loader.sampling={config.loader.sampling}: a step of HarmoDT belongs to one task's "
            "mask. Set loader.sampling=one_task."
        )
    torch.manual_seed(seed_of(config.seed, 0))
    stage = baseline_stage(config, len(run.tasks))
    unchanged = run.resume_settings(settings)
    with run.training(name) as folder:
        step, metrics = fit(config, stage, data, callbacks, unchanged, folder, run.console)
        entry = run.entry("baseline", name, settings, [], step, metrics)
        extra = {"tasks": TaskContext.from_store(run.store, config.loader, config.model).tensors()}
        if isinstance(stage, HarmoStage):
            extra["masks"] = {"packed": stage.masks.packed}
        if is_first_rank():
            entry = run.registry.save(entry, stage.model.state_dict(), **extra)
    run.console.print(f"{name}: registered, {step} steps.")
    return entry
