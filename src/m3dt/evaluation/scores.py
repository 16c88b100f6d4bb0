"""From episodes to scores with 95 % confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from m3dt.tasks import DOMAINS, get_task

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

    Both levels are resampled: tasks with replacement, and episodes within each drawn task. One
    task alone has only its episodes resampled.

    Args:
        scores: Scores of the episodes of each task.
        seed: Seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    num_tasks = len(scores)
    # Means of resampled episodes, per resample and slot; a slot draws a task, then its episodes.
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

    Ten successes in ten tries leave room for a failure; resampling them would not.
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


def summarize(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return score, interval, domains and tasks, as `m3dt evaluate --json` writes them.

    The average weighs each task equally (paper section 5.1).
    """
    by_task: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_task.setdefault(episode.task, []).append(episode)
    scores = {t: np.array([e.score for e in group]) for t, group in by_task.items()}
    tasks = {task: _task_summary(task, group) for task, group in by_task.items()}
    low, high = bootstrap_interval(list(scores.values()))
    return {
        "score": float(np.mean([s.mean() for s in scores.values()])),
        "ci95": [low, high],
        "domains": _domains(scores),
        "tasks": tasks,
    }


def _domains(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    grouped = {
        domain: [s.mean() for task, s in scores.items() if get_task(task).domain == domain]
        for domain in DOMAINS
    }
    return {domain: float(np.mean(means)) for domain, means in grouped.items() if means}


def _task_summary(task: str, episodes: Sequence[Episode]) -> dict[str, Any]:
    returns = np.array([e.episode_return for e in episodes])
    scores = np.array([e.score for e in episodes])
    return {
        "score": float(scores.mean()),
        "ci95": list(task_interval(task, scores)),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "success_rate": float(np.mean([e.success for e in episodes])),
        "episodes": len(episodes),
        "env_steps": int(sum(e.env_steps for e in episodes)),
    }
