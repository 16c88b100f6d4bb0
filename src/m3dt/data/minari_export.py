"""Export a dataset to Minari: one Minari dataset per task."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from m3dt.data.format import DatasetIndex
from m3dt.data.soundness import value_problems
from m3dt.data.store import DatasetStore, TaskStore
from m3dt.envs import environment_id, environment_spec
from m3dt.utils.errors import UserError
from m3dt.utils.files import sole_writer, staging_folder

_ROOT = "MINARI_DATASETS_PATH"  # environment variable: the folder to which minari writes
_NAMESPACE = "m3dt"


def export_minari(folder: Path, target: Path, names: Sequence[str]) -> list[str]:
    """Write tasks of a dataset as Minari datasets `m3dt/<task>-v0`, and return their names.

    Without names, all tasks are written. The target is Minari's root folder. Minari requires the
    observation after the last action: we did not record it, so the last one is repeated. A dataset
    names its environment, so that `recover_environment()` makes it.

    Raises:
        UserError: There is no dataset, a task is missing, already in the target or holds values
            that `m3dt verify` refuses, or minari is not installed.
    """
    if find_spec("minari") is None:
        raise UserError("Minari datasets need minari: pip install 'm3dt[export-minari]'")
    index = DatasetIndex.read(folder)
    tasks = list(dict.fromkeys(names)) or list(index.tasks)
    store = DatasetStore.open(folder, tasks)
    taken = [t for t in tasks if (target / environment_id(t)).exists()]
    if taken:
        raise UserError(f"{target}: already holds {', '.join(taken)}. Export to another folder.")
    for task in store.tasks:
        problem = next(value_problems(task, slice(0, len(task.rewards))), None)
        if problem:
            raise UserError(
                f"{task.path}: {problem}. Such data are not exported: collect or import it again."
            )
    with sole_writer(target), staging_folder(target) as staging:
        with _environment_variable(_ROOT, str(staging.resolve())):
            for task in store.tasks:
                entry = index.tasks[task.spec.name]
                _write(task, entry.success_rate is not None, str(entry.made_by.get("behaviour")))
        (target / _NAMESPACE).mkdir(exist_ok=True)
        for path in (staging / _NAMESPACE).iterdir():
            os.replace(path, target / _NAMESPACE / path.name)
    return tasks


def _write(task: TaskStore, success_known: bool, behaviour: str) -> None:
    import minari

    spec = task.spec
    env: gymnasium.Env = gymnasium.Env()  # it has what Minari reads; a task's would be simulated
    env.spec = environment_spec(spec.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the missing e-mail address and code
        minari.create_dataset_from_buffers(
            environment_id(spec.name),
            list(_buffers(task, success_known)),
            env=env,
            observation_space=Box(-np.inf, np.inf, (spec.state_dim,), np.float32),
            action_space=Box(-1.0, 1.0, (spec.action_dim,), np.float32),
            algorithm_name=behaviour,
            author="m3dt",
            description=f"{spec.name} as m3dt collected or imported it",
        )


def _buffers(task: TaskStore, success_known: bool) -> Iterator[Any]:
    """Yield a task's episodes. Only ants terminate: other short episodes count as truncated."""
    from minari.data_collector import EpisodeBuffer

    for i, (start, end) in enumerate(zip(task.episode_starts, task.episode_ends, strict=True)):
        steps = int(end - start)
        observations = np.array(task.observations[start:end])
        ended = np.arange(1, steps + 1) == steps
        early = task.spec.domain == "ant-dir" and steps < task.spec.horizon
        success = np.zeros(steps + 1, bool)
        success[-1] = bool(task.successes[i])
        yield EpisodeBuffer(
            id=i,
            observations=np.concatenate((observations, observations[-1:])),
            actions=np.array(task.actions[start:end]),
            rewards=list(task.rewards[start:end]),
            terminations=list(ended & early),
            truncations=list(ended & (not early)),
            infos={"success": success} if success_known else {},
        )


@contextmanager
def _environment_variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
