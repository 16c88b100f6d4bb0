"""Turn episodes into scores with 95 % confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric

from m3dt.tasks import DOMAINS, get_task


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


_RESAMPLES = 10_000
_Z = 1.959964  # the normal distribution's 97.5 % quantile


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
    a single task, only its episodes are resampled.

    Args:
        scores: Scores of the episodes of each task.
        seed: Seed of the resampling.
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
    return float(max(middle - half, 0.0) * scale), float(
        min(middle + half, 1 + z2 / episodes) * scale
    )


def task_interval(task: str, scores: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of one task's score."""
    if get_task(task).domain == "metaworld":
        return wilson_interval(int((scores > 0).sum()), len(scores))
    return bootstrap_interval([scores])


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
    metrics = _task_metrics()
    for episode in episodes:
        metrics["score"].update(episode.score)
        metrics["return_mean"].update(episode.episode_return)
        metrics["success_rate"].update(episode.success)
        metrics["env_steps"].update(episode.env_steps)
    totals = {name: value.item() for name, value in metrics.compute().items()}
    return {
        "score": totals["score"],
        "ci95": list(task_interval(task, np.array([e.score for e in episodes]))),
        "return_mean": totals["return_mean"],
        "return_std": float(np.std([e.episode_return for e in episodes])),
        "success_rate": totals["success_rate"],
        "episodes": len(episodes),
        "env_steps": int(totals["env_steps"]),
    }


def _task_metrics() -> MetricCollection:
    """Return one task's metrics in double precision; each is updated with its own values."""
    metrics: dict[str, Metric | MetricCollection] = {
        "score": MeanMetric(nan_strategy="disable"),
        "return_mean": MeanMetric(nan_strategy="disable"),
        "success_rate": MeanMetric(nan_strategy="disable"),
        "env_steps": SumMetric(nan_strategy="disable"),
    }
    return MetricCollection(metrics, compute_groups=False).set_dtype(torch.float64)
