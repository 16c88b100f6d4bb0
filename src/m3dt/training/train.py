"""The door of training: a command becomes jobs, and each job is completed."""

from rich.console import Console

from m3dt.config import BASELINES, Config
from m3dt.training.groups import GroupingJob
from m3dt.training.job import Job, complete
from m3dt.training.jobs import (
    BackboneJob,
    BaselineJob,
    ExpertsJob,
    PromptRouterJob,
    RouterJob,
)
from m3dt.training.parents import check_has_stages
from m3dt.training.ranks import taking_place
from m3dt.training.run import Run
from m3dt.utils.processes import threads_within_quota
from m3dt.utils.products import warn_of_other_products

_JOBS: dict[str, type[Job]] = {
    "stage1": BackboneJob,
    "group": GroupingJob,
    "stage2": ExpertsJob,
    "stage3": RouterJob,
}
COMMANDS = (*_JOBS, "train")


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
    with threads_within_quota(), taking_place(config):
        if command == "train" and config.method in BASELINES:
            complete(BaselineJob(run))
            return
        check_has_stages(config)
        for name in ("stage1", "stage2", "stage3") if command == "train" else (command,):
            by_prompt = name == "stage3" and config.moe.router == "prompt"
            complete(PromptRouterJob(run) if by_prompt else _JOBS[name](run))
