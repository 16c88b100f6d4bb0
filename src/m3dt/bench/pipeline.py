"""The data pipeline: batches from a dataset of the paper's size on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
from rich.console import Console

from m3dt.bench.machine import resident_bytes
from m3dt.bench.steps import PAPER
from m3dt.config import LoaderConfig
from m3dt.data import DatasetStore, M3DTDataModule, Stream
from m3dt.data.format import SCHEMA_VERSION, DatasetIndex, TaskEntry
from m3dt.tasks import TASKS, TaskSpec


def data_row(trajectories: int, console: Console) -> dict[str, Any]:
    """Time batches with prompts from 160 tasks on disk, and what they add to resident memory."""
    folder = Path(tempfile.mkdtemp(prefix="m3dt-bench-"))
    try:
        console.print(f"writing 160 tasks x {trajectories} trajectories to {folder} ...")
        _write_synthetic(folder, trajectories)
        os.sync()  # else the system writes to disk while we measure
        for path in folder.iterdir():
            _read_through(path)
        before = resident_bytes()
        start = time.perf_counter()
        store = DatasetStore.open(folder, tuple(TASKS))
        opened = time.perf_counter() - start
        streams = [Stream(0, tuple(range(len(TASKS))))]
        module = M3DTDataModule(store, LoaderConfig(batch_size=16), PAPER, 0, 1, streams)
        seconds, step = [], 0
        for step in range(2000):
            start = time.perf_counter()
            module.batch(step)
            seconds.append(time.perf_counter() - start)
        growth = resident_bytes() - before
        size = sum(path.stat().st_size for path in folder.iterdir())
    finally:
        shutil.rmtree(folder)
    middle = median(seconds)
    return {
        "name": "data",
        "config": {"tasks": len(TASKS), "trajectories": trajectories, "batch_size": 16},
        "median_seconds": middle,
        "samples_per_second": 16 / middle,
        "model_flops": 0,
        "utilization": None,
        "peak_bytes": growth,
        "note": f"{size / 2**30:.1f} GiB, read through once before, opened in {opened:.2f} s, "
        f"{step + 1} batches; memory: growth of the resident set",
    }


def _write_synthetic(folder: Path, trajectories: int) -> None:
    """Write random trajectories in the real format, a task at a time."""
    rng = np.random.default_rng(0)
    index = DatasetIndex({}, {})
    for spec in TASKS.values():
        entry = _write_task(folder, spec, trajectories, rng)
        index.tasks[spec.name] = entry
    index.write(folder)


def _read_through(path: Path) -> None:
    """Read a file once, so that the system caches it as far as memory allows."""
    buffer = bytearray(2**22)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _write_task(
    folder: Path, spec: TaskSpec, trajectories: int, rng: np.random.Generator
) -> TaskEntry:
    steps = trajectories * spec.horizon
    with h5py.File(folder / f"{spec.name}.hdf5", "w") as file:
        for name, width in (("observations", spec.state_dim), ("actions", spec.action_dim)):
            file[name] = rng.standard_normal((steps, width), dtype=np.float32)
        file["rewards"] = rng.standard_normal(steps, dtype=np.float32)
        file["episode_ends"] = np.arange(1, trajectories + 1) * spec.horizon
        file["episode_returns"] = np.zeros(trajectories, np.float32)
        file["successes"] = np.zeros(trajectories, np.uint8)
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["state_mean"] = np.zeros(spec.state_dim)
        file.attrs["state_std"] = np.ones(spec.state_dim)
    quartiles = [0.0] * 5
    return TaskEntry(
        f"{spec.name}.hdf5", spec.env_id, trajectories, steps, "", quartiles, 0.0, {"seed": 0}
    )
