"""The door of training: what is finished is kept; what is missing is built, fitted, registered."""

from __future__ import annotations

import lightning.pytorch as pl
from rich.console import Console

from m3dt.config import BASELINES, Config
from m3dt.runs import check_parent
from m3dt.training.callbacks import build_callbacks, deciding_settings
from m3dt.training.fingerprint import precision
from m3dt.training.finished import find_finished
from m3dt.training.fit import fit
from m3dt.training.groups import group_tasks
from m3dt.training.jobs import BackboneJob, BaselineJob, ExpertsJob, Job, RouterJob
from m3dt.training.multi_device import devices_of, train_on_devices
from m3dt.training.parents import check_has_stages
from m3dt.training.resume import is_first_rank
from m3dt.training.run import Run

_STAGES: dict[str, type[Job]] = {"stage1": BackboneJob, "stage2": ExpertsJob, "stage3": RouterJob}
COMMANDS = (*_STAGES, "group", "train")


def train(config: Config, command: str, console: Console) -> None:
    """Do what a training command asks for; repeat nothing that is finished.

    Args:
        config: The experiment.
        command: One of `COMMANDS`: a stage, the grouping of tasks, or `train` for a whole method.
        console: Receives progress and messages.

    Raises:
        UserError: Settings, data or models found in the run do not fit together.
        RunError: Training stopped before its end.
    """
    run = Run(config, console)
    if command == "train" and config.method in BASELINES:
        complete(BaselineJob(run))
        return
    check_has_stages(config)
    if command == "group":
        group_tasks(run)
        return
    for stage in _STAGES if command == "train" else (command,):
        complete(_STAGES[stage](run))


def complete(job: Job) -> None:
    """Train the models of a job, unless the registry holds them already.

    Raises:
        UserError: The registry holds models made with other settings, data or parents.
    """
    run = job.run
    callbacks = build_callbacks(run.config, job.section)
    settings = {
        **job.settings(),
        "precision": precision(run.config),
        **deciding_settings(callbacks),
    }
    found = {name: find_finished(run, job.kind, name, settings) for name in job.names}
    for entry in found.values():
        for parent in job.parents:
            if entry is not None:
                check_parent(run.registry, entry, parent)
    missing = [name for name, entry in found.items() if entry is None]
    devices = devices_of(run.config) if job.divisible and missing else []
    if not missing:
        steps = sorted({entry.step for entry in found.values() if entry is not None})
        made = f"{_count(job)} of step {', '.join(map(str, steps))}" if steps else "no models"
        run.console.print(f"{job.title} is finished: {made}. Nothing to do.")
    elif len(devices) > 1:
        train_on_devices(run, job.names, devices)
    else:
        _train(job, missing, callbacks, settings)


def _train(
    job: Job, missing: list[str], callbacks: list[pl.Callback], settings: dict[str, object]
) -> None:
    run = job.run
    stage, data = job.build(missing)
    unchanged = {**run.resume_settings(settings, job.parents), **job.resumed_with}
    with run.training(job.folder) as folder:
        fitted = fit(run.config, stage, data, callbacks, unchanged, folder, run.console)
        if is_first_rank():
            for product in job.products(stage):
                if product.name in missing:
                    entry = run.describe(job.kind, settings, job.parents, product, fitted)
                    run.registry.save(entry, product.weights, **product.extra)
    run.console.print(f"{job.title}: {_count(job)} registered, weights of step {fitted.step}.")


def _count(job: Job) -> str:
    return job.kind if len(job.names) == 1 else f"{len(job.names)} {job.kind}s"
