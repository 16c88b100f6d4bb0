"""The data pipeline: batches from synthetic datasets of any size on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
from rich.console import Console

from m3dt.bench.machine import resident_bytes
from m3dt.bench.steps import BATCH, PAPER
from m3dt.config import LoaderConfig
from m3dt.data import DatasetStore, M3DTDataModule, TaskStream
from m3dt.data.format import SCHEMA_VERSION
from m3dt.data.store import TaskStore
from m3dt.tasks import TASKS, TaskSpec


def data_row(trajectories: int, console: Console) -> dict[str, Any]:
    """Time batches of the paper's 160 tasks."""
    console.print(f"writing 160 tasks x {trajectories} trajectories ...")
    return {**batches_row(len(TASKS), trajectories), "name": "data"}


def batches_row(num_tasks: int, trajectories: int) -> dict[str, Any]:
    """Time batches with prompts, by the clock, and what they add to resident memory.

    Args:
        num_tasks: Files, with the shapes of the 160 tasks again and again.
        trajectories: Random ones of each, of full length.
    """
    folder = Path(tempfile.mkdtemp(prefix="m3dt-bench-"))
    try:
        rng = np.random.default_rng(0)
        files = [
            (folder / f"{number}.hdf5", spec)
            for number, spec in enumerate(islice(cycle(TASKS.values()), num_tasks))
        ]
        for path, spec in files:
            _write(path, spec, trajectories, rng)
        os.sync()  # else the system writes to disk while we measure
        for path, _ in files:
            _read_through(path)
        before = resident_bytes()
        start = time.perf_counter()
        tasks = tuple(TaskStore.open(path, spec) for path, spec in files)
        streams = TaskStream(0, tuple(range(num_tasks)))
        loader = LoaderConfig(batch_size=BATCH)
        module = M3DTDataModule(DatasetStore(folder, tasks, ""), loader, PAPER, 0, 1, streams)
        opened = time.perf_counter() - start
        seconds = []
        for step in range(2000):
            start = time.perf_counter()
            module.batch(step)
            seconds.append(time.perf_counter() - start)
        growth = resident_bytes() - before
        size = sum(path.stat().st_size for path, _ in files)
    finally:
        shutil.rmtree(folder)
    middle = median(seconds)
    return {
        "name": "tasks, batches",
        "config": {"num_tasks": num_tasks, "trajectories": trajectories, "batch_size": BATCH},
        "median_seconds": middle,
        "samples_per_second": BATCH / middle,
        "model_flops": 0,
        "utilization": None,
        "peak_bytes": growth,
        "opened_seconds": opened,
        "note": f"{size / 2**30:.1f} GiB opened in {opened:.2f} s",
    }


def _read_through(path: Path) -> None:
    """Read a file once, so that the system caches it as far as memory allows."""
    buffer = bytearray(2**22)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _write(path: Path, spec: TaskSpec, trajectories: int, rng: np.random.Generator) -> None:
    """Write a task's random trajectories in the real format."""
    steps = trajectories * spec.horizon
    with h5py.File(path, "w") as file:
        for name, width in (("observations", spec.state_dim), ("actions", spec.action_dim)):
            file[name] = rng.standard_normal((steps, width), dtype=np.float32)
        file["rewards"] = rng.standard_normal(steps, dtype=np.float32)
        file["episode_ends"] = np.arange(1, trajectories + 1) * spec.horizon
        file["episode_returns"] = np.zeros(trajectories, np.float32)
        file["successes"] = np.zeros(trajectories, np.uint8)
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["state_mean"] = np.zeros(spec.state_dim)
        file.attrs["state_std"] = np.ones(spec.state_dim)
