"""Subsets of the 160 tasks with the domain ratio and the mean difficulty of all (appendix A.3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from m3dt.tasks.catalog import TASKS
from m3dt.tasks.spec import DOMAINS

_TOLERANCE = 0.5  # largest accepted difference between the mean scores of a subset and of all tasks
_MAX_DRAWS = 10_000


def domain_counts(count: int) -> dict[str, int]:
    """Divide `count` tasks among the domains in the ratio of all tasks, by largest remainder."""
    sizes = {d: sum(spec.domain == d for spec in TASKS.values()) for d in DOMAINS}
    exact = {d: count * size / len(TASKS) for d, size in sizes.items()}
    counts = {d: int(share) for d, share in exact.items()}
    by_remainder = sorted(DOMAINS, key=lambda d: counts[d] - exact[d])
    for d in by_remainder[: count - sum(counts.values())]:
        counts[d] += 1
    return counts


def select_tasks(count: int, seed: int, scores: Mapping[str, float]) -> tuple[str, ...]:
    """Draw a subset of tasks that keeps the ratio of the domains and the mean difficulty.

    Args:
        count: Number of tasks, 4 to 160.
        seed: Seed of the draw.
        scores: Difficulty of each task: the score of a model trained on it alone.

    Returns:
        Task names in catalogue order: the first draw whose mean score differs by at most half a
        point from that of all tasks, or else the closest of 10,000 draws.

    Raises:
        ValueError: `count` is out of range.
    """
    if not 4 <= count <= len(TASKS):
        raise ValueError(f"cannot choose {count} of {len(TASKS)} tasks: give 4 to {len(TASKS)}")
    rng = np.random.default_rng((seed, count))
    mean = np.mean([scores[name] for name in TASKS])
    counts = domain_counts(count)
    by_domain = {d: [n for n, spec in TASKS.items() if spec.domain == d] for d in DOMAINS}
    best: tuple[float, set[str]] = (np.inf, set())
    for _ in range(_MAX_DRAWS):
        drawn: set[str] = set()
        for domain, names in by_domain.items():
            drawn.update(rng.choice(names, counts[domain], replace=False).tolist())
        distance = abs(float(np.mean([scores[name] for name in sorted(drawn)]) - mean))
        if distance < best[0]:
            best = distance, drawn
        if distance <= _TOLERANCE:
            break
    return tuple(name for name in TASKS if name in best[1])
