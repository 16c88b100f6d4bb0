"""Turn episodes into scores with 95 % confidence intervals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torchmetrics import MeanMetric

from m3dt.tasks import DOMAINS, get_task

_RESAMPLES = 10_000
_Z = 1.959964  # the normal distribution's 97.5 % quantile


class TaskResult(TypedDict):
    """Scores of one task over its episodes."""

    score: float
    """Mean normalized score, 0 to 100."""
    ci95: list[float]
    """Lower and upper end of the score's 95 % interval."""
    return_mean: float
    return_std: float
    success_rate: float
    """0 to 1."""
    episodes: int
    env_steps: int


class ScoreSummary(TypedDict):
    """Scores of several tasks, each weighing the same."""

    score: float
    ci95: list[float]
    domains: dict[str, float]
    tasks: dict[str, TaskResult]


class PolicyResult(ScoreSummary):
    """Scores of a policy and the conditions they were measured under."""

    episodes: int
    """Episodes per task."""
    env_steps_per_second: float
    flops_per_action: float
    """Floating-point operations of the model, mean over a few tasks."""
    ms_per_action: float
    """Milliseconds of the model, of those that share a pass together; 0 if nothing was played."""
    seed: int
    versions: dict[str, str]


class EvaluationResult(PolicyResult):
    """Scores of a trained agent; what `m3dt.evaluate` returns."""

    run: str
    method: str
    num_parameters: int


class ModelInfo(TypedDict):
    """What identifies a model of a run in its results."""

    method: str
    num_parameters: int
    weights: str | list[str]
    """Hash of the weights; an oracle has one per expert."""
    step: int


class RunResult(EvaluationResult):
    """Scores of a model of a run; what `m3dt evaluate --json` writes."""

    weights: str | list[str]
    step: int


@dataclass(frozen=True)
class Episode:
    """The outcome of one rollout."""

    task: str
    number: int
    episode_return: float
    success: bool
    env_steps: int

    @property
    def score(self) -> float:
        """Normalized score, 0 to 100."""
        return get_task(self.task).normalized_score(self.episode_return, self.success)


def bootstrap_interval(scores: Sequence[np.ndarray], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean over tasks of each task's mean score.

    Both levels are resampled with replacement: the tasks, and the episodes of each drawn task. For
    a single task, only its episodes are resampled. `scores` has one array per task.
    """
    rng = np.random.default_rng(seed)
    num_tasks = len(scores)
    # Each slot of a resample draws a task, then episodes of it, whose mean is its value.
    tasks = rng.integers(0, num_tasks, size=(_RESAMPLES, num_tasks))
    means = np.empty(tasks.shape)
    for task, episodes in enumerate(scores):
        slots = tasks == task
        draws = rng.integers(0, len(episodes), size=(int(slots.sum()), len(episodes)))
        means[slots] = np.asarray(episodes)[draws].mean(axis=1)
    low, high = np.quantile(means.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a success rate, in percent.

    Unlike resampling, it leaves room for a failure after ten successes in ten episodes.
    """
    rate, z2 = successes / episodes, _Z**2
    middle = rate + z2 / (2 * episodes)
    half = _Z * np.sqrt(rate * (1 - rate) / episodes + z2 / (4 * episodes**2))
    scale = 100 / (1 + z2 / episodes)
    low, high = max(middle - half, 0.0), min(middle + half, 1 + z2 / episodes)
    return float(low * scale), float(high * scale)


def summarize(episodes: Sequence[Episode]) -> ScoreSummary:
    """Return score, interval, domains and tasks, as `m3dt evaluate --json` writes them.

    All tasks weigh the same (paper section 5.1).
    """
    by_task: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_task.setdefault(episode.task, []).append(episode)
    tasks = {task: _task_result(task, group) for task, group in by_task.items()}
    scores = [np.array([e.score for e in group]) for group in by_task.values()]
    return {
        "score": float(np.mean([result["score"] for result in tasks.values()])),
        "ci95": list(bootstrap_interval(scores)),
        "domains": _domains(tasks),
        "tasks": tasks,
    }


def _domains(tasks: Mapping[str, TaskResult]) -> dict[str, float]:
    grouped: dict[str, list[float]] = {domain: [] for domain in DOMAINS}
    for task, result in tasks.items():
        grouped[get_task(task).domain].append(result["score"])
    return {domain: float(np.mean(scores)) for domain, scores in grouped.items() if scores}


def _task_result(task: str, episodes: Sequence[Episode]) -> TaskResult:
    scores = np.array([episode.score for episode in episodes])
    if get_task(task).domain == "metaworld":
        interval = wilson_interval(int((scores > 0).sum()), len(scores))
    else:
        interval = bootstrap_interval([scores])
    return {
        "score": _mean(scores.tolist()),
        "ci95": list(interval),
        "return_mean": _mean(episode.episode_return for episode in episodes),
        "return_std": float(np.std([episode.episode_return for episode in episodes])),
        "success_rate": _mean(episode.success for episode in episodes),
        "episodes": len(episodes),
        "env_steps": sum(episode.env_steps for episode in episodes),
    }


def _mean(values: Iterable[float]) -> float:
    """Return the mean in double precision."""
    # Under DDP one rank plays: a sum over ranks would wait for the others for ever.
    metric = MeanMetric(nan_strategy="disable", sync_on_compute=False).set_dtype(torch.float64)
    for value in values:
        metric.update(value)
    return metric.compute().item()
