"""What a dataset holds: returns, and states beside those of the original dataset.

Letters: M trajectories, S state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from m3dt.data.format import DatasetIndex
from m3dt.data.store import DatasetStore, TaskStore

# Below it a deviation counts as none: the original statistics carry rounding of that size.
CONSTANT = 0.005
_QUANTILES = (0.005, 0.995)
_SAMPLE = 20_000  # states that quantiles are taken from


@dataclass(frozen=True)
class Scale:
    """One state dimension, here and in the original dataset.

    Attributes:
        task, dimension: Which one.
        mean, std: Over our training trajectories.
        low, high: Our 0.5 % and 99.5 % quantiles.
        original_mean, original_std: Of the original dataset.
    """

    task: str
    dimension: int
    mean: float
    std: float
    low: float
    high: float
    original_mean: float
    original_std: float

    @property
    def ratio(self) -> float:
        """Our standard deviation over the original's, each counted as 0.005 at least."""
        return max(self.std, CONSTANT) / max(self.original_std, CONSTANT)

    @property
    def coverage(self) -> float:
        """The share of the original's mean +- 2 deviations that our quantiles enclose."""
        reach = 2 * max(self.original_std, CONSTANT)
        low, high = self.original_mean - reach, self.original_mean + reach
        return max(0.0, min(high, self.high) - max(low, self.low)) / (high - low)


def describe(folder: Path) -> dict[str, Any]:
    """Describe each task of a dataset: counts, quartiles of returns, statistics of its states.

    Returns:
        By task: `trajectories`, `steps`, `behaviour`, `return_quartiles`, `success_rate`, and
        `states`, a list of [mean, std, low, high] for each dimension.

    Raises:
        UserError: There is no dataset.
    """
    index = DatasetIndex.read(folder)
    store = DatasetStore.open(folder, list(index.tasks))
    result = {}
    for task in store.tasks:
        entry = index.tasks[task.spec.name]
        result[task.spec.name] = {
            "trajectories": entry.trajectories,
            "steps": entry.steps,
            "behaviour": entry.made_by.get("behaviour", "unknown"),
            "return_quartiles": entry.return_quartiles,
            "success_rate": entry.success_rate,
            "states": _states(task),
        }
    return result


def _states(task: TaskStore) -> list[list[float]]:
    every = -(-task.num_training_steps // _SAMPLE)
    sample = task.observations[: task.num_training_steps : every]
    low, high = np.quantile(sample, _QUANTILES, axis=0)
    rows = np.stack((task.state_mean, task.state_std, low, high), axis=1)  # (S, 4)
    return [[float(f"{value:.5g}") for value in row] for row in rows]


@cache
def original_statistics() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return mean and deviation, (39,) each, of the original dataset's states, by task."""
    path = resources.files("m3dt.data").joinpath("original_statistics.npz")
    with path.open("rb") as file, np.load(file) as arrays:
        columns = (arrays[name] for name in ("task", "state_mean", "state_std"))
        return {str(task): (mean, std) for task, mean, std in zip(*columns, strict=True)}


def compare_scales(description: Mapping[str, Any]) -> list[Scale]:
    """Put every state dimension of a described dataset beside the original's."""
    scales = []
    for task, described in description.items():
        mean, std = original_statistics()[task]
        for d, (own_mean, own_std, low, high) in enumerate(described["states"]):
            original = float(mean[d]), float(std[d])
            scales.append(Scale(task, d, own_mean, own_std, low, high, *original))
    return scales


def outliers(scales: Sequence[Scale], factor: float = 3.0) -> list[Scale]:
    """Return the dimensions whose scales differ by more than a factor."""
    return [scale for scale in scales if max(scale.ratio, 1 / scale.ratio) > factor]
