"""Datasets of random trajectories: their shapes are real, their content is of no matter."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from m3dt.data.format import SCHEMA_VERSION, DatasetIndex, TaskEntry
from m3dt.tasks import TaskSpec, get_task
from m3dt.utils.files import sha256


def write_dataset(folder: Path, tasks: Sequence[str], trajectories: int, length: int = 0) -> None:
    """Write a dataset with its index.

    Args:
        folder: A new folder.
        tasks: Names of its tasks.
        trajectories: Per task, prompts included.
        length: Steps of a trajectory. 0 means the task's horizon.
    """
    folder.mkdir(parents=True)
    rng, index = np.random.default_rng(0), DatasetIndex({}, {})
    for spec in map(get_task, tasks):
        path = folder / f"{spec.name}.hdf5"
        steps = write_random_task(path, spec, trajectories, rng, length)
        index.add(
            spec.name,
            TaskEntry(
                file=path.name,
                env_id=spec.env_id,
                trajectories=trajectories,
                steps=steps,
                sha256=sha256(path),
                return_quartiles=[0.0] * 5,
                success_rate=None,
                made_by={"seed": 0},
            ),
        )
    index.write(folder)


def write_random_task(
    path: Path, spec: TaskSpec, trajectories: int, rng: np.random.Generator, length: int = 0
) -> int:
    """Write random trajectories of a task in the real format; return their number of steps."""
    length = length or spec.horizon
    steps = trajectories * length
    with h5py.File(path, "w") as file:
        for name, width in (("observations", spec.state_dim), ("actions", spec.action_dim)):
            file[name] = rng.standard_normal((steps, width), dtype=np.float32)
        file["rewards"] = rng.standard_normal(steps, dtype=np.float32)
        file["episode_ends"] = np.arange(1, trajectories + 1) * length
        file["episode_returns"] = np.zeros(trajectories, np.float32)
        file["successes"] = np.zeros(trajectories, np.uint8)
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["state_mean"] = np.zeros(spec.state_dim)
        file.attrs["state_std"] = np.ones(spec.state_dim)
    return steps
