"""The door of training: a command becomes jobs, and each job is completed."""

from pathlib import Path

from rich.console import Console

from m3dt.config import BASELINES, Config
from m3dt.training.expert_jobs import ExpertsJob
from m3dt.training.finished import find_finished
from m3dt.training.groups import GroupingJob
from m3dt.training.job import TrainingJob, complete
from m3dt.training.jobs import (
    BackboneJob,
    BaselineJob,
    RouterJob,
)
from m3dt.training.parents import check_has_stages
from m3dt.training.ranks import taking_place
from m3dt.training.resume import newest_checkpoint, step_of
from m3dt.training.routing_jobs import PromptRouterJob
from m3dt.training.run import Run
from m3dt.utils.errors import UserError
from m3dt.utils.processes import threads_within_quota
from m3dt.utils.products import warn_of_other_products

COMMANDS = ("stage1", "group", "stage2", "stage3", "train")


def trainings(config: Config) -> dict[str, type[TrainingJob]]:
    """Return the trainings of a method in their order, by the commands that run one each."""
    if config.method in BASELINES:
        return {"train": BaselineJob}
    last = PromptRouterJob if config.moe.router == "prompt" else RouterJob
    return {"stage1": BackboneJob, "stage2": ExpertsJob, "stage3": last}


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
    warn_of_other_products()
    run = Run(config, console)
    jobs = trainings(config)
    with threads_within_quota(), taking_place(config):
        if command != "train":
            check_has_stages(config)
        if command == "group":
            complete(GroupingJob(run))
            return
        for name in jobs if command == "train" else (command,):
            complete(jobs[name](run))


def steps_taken(config: Config, job: type[TrainingJob]) -> int | None:
    """Return the step from which a training would go on, or None if it is finished.

    A training whose models or checkpoints are of other settings counts as not begun: its command
    says what is wrong.
    """
    run = Run(config, Console(quiet=True))
    try:
        settings = job.settings_of(config)
        if all(find_finished(run, job.kind, name, settings) for name in job.models(config)):
            return None
        checkpoint = newest_checkpoint(Path(config.run) / "checkpoints" / job.checkpoints(config))
    except UserError:
        return 0
    return step_of(checkpoint) if checkpoint else 0
