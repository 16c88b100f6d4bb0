"""When stage 1 stops: once the conflict between the tasks' gradients has peaked (section 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StoppingRule:
    """What counts as a peak of the conflict, which is measured every so many steps.

    Attributes:
        min_steps: Measurements before this step are not candidates.
        patience: Measurements without a new maximum after which stage 1 may stop.
        window: Number of measurements whose mean is the smoothed conflict.
        min_rise: Least rise of the smoothed conflict up to its peak; with less, it goes on.
    """

    min_steps: int = 0
    patience: int = 5
    window: int = 5
    min_rise: float = 0.01

    def __post_init__(self) -> None:
        for name in ("patience", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")


def smooth(conflicts: Sequence[float], window: int) -> list[float]:
    """Return the mean of each measurement and up to `window` - 1 measurements before it."""
    ends = range(1, len(conflicts) + 1)
    parts = [conflicts[max(end - window, 0) : end] for end in ends]
    return [sum(part) / len(part) for part in parts]


def find_peak(steps: Sequence[int], conflicts: Sequence[float], rule: StoppingRule) -> int | None:
    """Return the index of the largest smoothed conflict so far: stage 1 keeps those weights.

    Args:
        steps: Optimiser steps of the measurements, ascending.
        conflicts: 1 - mean_i cos(g_i, G) at these steps, where g_i is the gradient of task i on a
            fixed batch and G is the mean of all g_i.
        rule: What counts as a peak.

    Returns:
        The index, or None before `min_steps`.
    """
    smoothed = smooth(conflicts, rule.window)
    candidates = [i for i, step in enumerate(steps) if step >= rule.min_steps]
    return max(candidates, key=smoothed.__getitem__, default=None)


def should_stop(steps: Sequence[int], conflicts: Sequence[float], rule: StoppingRule) -> bool:
    """Tell whether the smoothed conflict has risen to a peak and had no new maximum since.

    The arguments are those of `find_peak`.
    """
    peak = find_peak(steps, conflicts, rule)
    if peak is None:
        return False
    smoothed = smooth(conflicts, rule.window)
    rise = smoothed[peak] - min(smoothed[: peak + 1])
    return len(steps) - 1 - peak >= rule.patience and rise >= rule.min_rise
