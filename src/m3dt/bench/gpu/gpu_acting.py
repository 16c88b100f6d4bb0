"""Environment steps per second of a backbone and of an oracle of experts."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from m3dt.bench.gpu.compared_runs import train_here
from m3dt.bench.gpu.outcomes import Outcome, attempt
from m3dt.bench.gpu.site import QUIET, Site
from m3dt.evaluation.run_models import run_model
from m3dt.evaluation.run_scores import score_models

PART = "evaluation"
MODELS = ("backbone", "oracle")
RUN = "evaluation"  # of both evaluations: the second one finds the models of the first


def names_of_acting(num_tasks: int, episodes: int) -> tuple[str, ...]:
    """Return what `measure_acting` measures."""
    return tuple(f"{num_tasks} tasks x {episodes} episodes, {model}" for model in MODELS)


def measure_acting(site: Site, num_tasks: int, episodes: int) -> Iterator[Outcome]:
    """Evaluate models of a few training steps in the simulators.

    Args:
        site: The place of work.
        num_tasks: Number of tasks, which bounds the time.
        episodes: Per task.
    """
    for model, name in zip(MODELS, names_of_acting(num_tasks, episodes), strict=True):
        yield attempt(PART, name, partial(_evaluate, site, num_tasks, episodes, model))


def _evaluate(site: Site, num_tasks: int, episodes: int, model: str) -> dict[str, Any]:
    experts = min(site.sizes.experts, len(site.tasks))
    settings = (
        *site.sizes.model,
        f"moe.num_experts={experts}",
        "grouping.method=random",
        "stage1.max_steps=2",
        "stage2.max_steps=2",
        f"evaluation.episodes={episodes}",
    )
    train_here(site.overrides(RUN, *settings), "stage1", "stage2")
    tasks = f"tasks=[{','.join(site.some_tasks(num_tasks))}]"
    config = site.config(RUN, *settings, tasks)
    (score,) = score_models(config, [run_model(config, model)], QUIET)
    return {
        "env_steps_per_second": score.result["env_steps_per_second"],
        "experts": experts if model == "oracle" else 0,
        "stored": score.stored,
    }
