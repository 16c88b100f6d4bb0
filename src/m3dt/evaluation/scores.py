"""Turn episodes into scores with 95 % confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypedDict

import numpy as np

from m3dt.tasks import TaskSpec, domains_of, get_task
from m3dt.tasks.spec import score_of_success
from m3dt.utils.intervals import Interval, two_level_interval, wilson_interval


class TaskResult(TypedDict):
    """Scores of one task over its episodes."""

    score: float
    """Mean normalized score, 0 to 100."""
    ci95: list[float] | None
    """Lower and upper end of the score's 95 % interval, None for a single episode."""
    return_mean: float
    return_std: float
    success_rate: float
    """0 to 1."""
    episodes: int
    env_steps: int


class ScoreSummary(TypedDict):
    """Scores of several tasks, each weighing the same."""

    score: float
    ci95: list[float] | None
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
    """Scores of a model of a run; `m3dt evaluate --json` writes `{"models": {NAME: this}}`."""

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
    score: float  # normalized, 0 to 100

    @classmethod
    def of(
        cls, spec: TaskSpec, number: int, episode_return: float, success: bool, env_steps: int
    ) -> Episode:
        """Return the outcome of an episode of a task, with its score."""
        score = spec.normalized_score(episode_return, success)
        return cls(spec.name, number, episode_return, success, env_steps, score)


def summarize(episodes: Sequence[Episode]) -> ScoreSummary:
    """Return score, interval, domains and tasks, as `m3dt evaluate --json` writes for a model.

    All tasks weigh the same (paper section 5.1).
    """
    by_task: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_task.setdefault(episode.task, []).append(episode)
    tasks = {task: _task_result(task, group) for task, group in by_task.items()}
    scores = [np.array([e.score for e in group]) for group in by_task.values()]
    return {
        "score": float(np.mean([result["score"] for result in tasks.values()])),
        "ci95": _listed(two_level_interval(scores)),
        "domains": _by_domain(tasks, lambda task, result: result["score"]),
        "tasks": tasks,
    }


def shares_of_target(tasks: Mapping[str, TaskResult]) -> dict[str, float]:
    """Return by domain the mean over tasks of the return as a share of the task's target return.

    Tasks whose target follows from the data are left out, and those whose target is the lowest
    return.
    """
    specs = {task: get_task(task) for task in tasks}
    known = {
        task: result
        for task, result in tasks.items()
        if specs[task].is_complete and specs[task].target_return != specs[task].lowest_return
    }
    return _by_domain(known, lambda t, r: get_task(t).share_of_target(r["return_mean"]))


def _by_domain(
    tasks: Mapping[str, TaskResult], value: Callable[[str, TaskResult], float]
) -> dict[str, float]:
    """Return the mean over tasks of a value of their results, by domain."""
    grouped: dict[str, list[float]] = {domain: [] for domain in domains_of(tasks)}
    for task, result in tasks.items():
        grouped[get_task(task).domain].append(value(task, result))
    return {domain: float(np.mean(values)) for domain, values in grouped.items()}


def _task_result(task: str, episodes: Sequence[Episode]) -> TaskResult:
    scores = np.array([episode.score for episode in episodes])
    if get_task(task).score is score_of_success:
        interval = wilson_interval(int((scores > 0).sum()), len(scores))
    else:
        interval = two_level_interval([scores])
    return {
        "score": fmean(scores),
        "ci95": _listed(interval),
        "return_mean": fmean(episode.episode_return for episode in episodes),
        "return_std": float(np.std([episode.episode_return for episode in episodes])),
        "success_rate": fmean(episode.success for episode in episodes),
        "episodes": len(episodes),
        "env_steps": sum(episode.env_steps for episode in episodes),
    }


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
