"""Statistics of a dataset: returns, and states compared with the original dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TypedDict

import numpy as np

from m3dt.data.format import DatasetIndex
from m3dt.data.store import DatasetStore, TaskStore
from m3dt.data.values import unsound
from m3dt.tasks import TASKS
from m3dt.utils.errors import UserError

# Lower bound of standard deviations: the original statistics have rounding errors of this size.
CONSTANT = 0.005
_QUANTILES = (0.005, 0.995)
_SAMPLE = 20_000  # largest number of states from which quantiles are computed


class TaskDescription(TypedDict):
    """One task of a dataset."""

    trajectories: int
    steps: int
    behaviour: str
    return_quartiles: list[float]
    """Smallest, 25 %, median, 75 % and largest episode return."""
    success_rate: float | None
    states: list[list[float]]
    """[mean, std, low, high] of each state dimension, over the training trajectories."""


@dataclass(frozen=True)
class Scale:
    """One state dimension of a task, in a dataset and in the original one."""

    task: str
    dimension: int  # index of the state dimension
    mean: float  # of our training trajectories
    std: float
    low: float  # their 0.5 % quantile
    high: float  # their 99.5 % quantile
    original_mean: float
    original_std: float

    @property
    def ratio(self) -> float:
        """Our standard deviation divided by the original's, both at least 0.005."""
        return max(self.std, CONSTANT) / max(self.original_std, CONSTANT)

    @property
    def coverage(self) -> float:
        """Fraction of the original's mean +- 2 std that lies between our quantiles."""
        reach = 2 * max(self.original_std, CONSTANT)
        low, high = self.original_mean - reach, self.original_mean + reach
        return max(0.0, min(high, self.high) - max(low, self.low)) / (high - low)


def describe(folder: Path) -> dict[str, TaskDescription]:
    """Describe the tasks of a dataset, by name.

    Raises:
        UserError: There is no dataset, or it is not sound.
    """
    index = DatasetIndex.read(folder)
    store = DatasetStore.open(folder, list(index.tasks))
    return {
        task.spec.name: {
            "trajectories": entry.trajectories,
            "steps": entry.steps,
            "behaviour": entry.made_by.get("behaviour", "unknown"),
            "return_quartiles": entry.return_quartiles,
            "success_rate": entry.success_rate,
            "states": _states(task),
        }
        for task, entry in zip(store.tasks, index.tasks.values(), strict=True)
    }


def _states(task: TaskStore) -> list[list[float]]:
    every = -(-task.num_training_steps // _SAMPLE)
    sample = task.observations[: task.num_training_steps : every]
    found = unsound("observations", sample)
    if found:
        raise UserError(f"{task.path}: {found[0]}. Run `m3dt verify {task.path.parent}`.")
    low, high = np.quantile(sample, _QUANTILES, axis=0)
    rows = np.stack((task.state_mean, task.state_std, low, high), axis=1)  # (S, 4)
    return [[float(f"{value:.5g}") for value in row] for row in rows]


@cache
def original_statistics() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return mean and std of the original dataset's states, (39,) each, by task."""
    path = resources.files("m3dt.data").joinpath("original_statistics.npz")
    with path.open("rb") as file, np.load(file) as arrays:
        columns = (arrays[name] for name in ("task", "state_mean", "state_std"))
        return {str(task): (mean, std) for task, mean, std in zip(*columns, strict=True)}


def compare_scales(description: Mapping[str, TaskDescription]) -> list[Scale]:
    """Compare every state dimension of a described dataset with the original's."""
    scales = []
    for task, described in description.items():
        if task not in TASKS:
            continue  # the original dataset lacks it
        mean, std = original_statistics()[task]
        for d, (own_mean, own_std, low, high) in enumerate(described["states"]):
            original = float(mean[d]), float(std[d])
            scales.append(Scale(task, d, own_mean, own_std, low, high, *original))
    return scales


def outliers(scales: Sequence[Scale], factor: float = 3.0) -> list[Scale]:
    """Return the dimensions whose standard deviations differ by more than a factor."""
    return [scale for scale in scales if max(scale.ratio, 1 / scale.ratio) > factor]
