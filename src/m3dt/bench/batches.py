"""Time per batch: the data pipeline on synthetic datasets of any size on disk."""

import os
import tempfile
import time
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import numpy as np

from m3dt.bench.devices import resident_bytes
from m3dt.bench.measuring import Row, make_row, seconds_of
from m3dt.bench.steps import BATCH, PAPER
from m3dt.bench.synthetic import write_random_task
from m3dt.config import LoaderConfig
from m3dt.data import DatasetStore, M3DTDataModule, TaskStream
from m3dt.data.store import TaskStore
from m3dt.tasks import TASKS, TaskSpec

_STEPS = 2000


def batches_row(num_tasks: int, trajectories: int) -> Row:
    """Measure the wall time of batches with prompts, and the resident memory that they add.

    Files have the shapes of the 160 tasks in turn, and random trajectories of full length.
    """
    with tempfile.TemporaryDirectory(prefix="m3dt-bench-") as folder:
        files = _write_files(Path(folder), num_tasks, trajectories)
        size = sum(path.stat().st_size for path, _ in files)
        before, start = resident_bytes(), time.perf_counter()
        module = _open(Path(folder), files)
        opened = time.perf_counter() - start
        steps = (partial(module.batch, step) for step in range(_STEPS))
        seconds = median(seconds_of(step, time.perf_counter) for step in steps)
        growth = resident_bytes() - before
    config = {"num_tasks": num_tasks, "trajectories": trajectories, "batch_size": BATCH}
    note = f"{size / 2**30:.1f} GiB opened in {opened:.2f} s"
    row = make_row("tasks, batches", config, seconds, BATCH, growth, note)
    return {**row, "opened_seconds": opened}


def _write_files(folder: Path, num_tasks: int, trajectories: int) -> list[tuple[Path, TaskSpec]]:
    rng = np.random.default_rng(0)
    specs = islice(cycle(TASKS.values()), num_tasks)
    files = [(folder / f"{number}.hdf5", spec) for number, spec in enumerate(specs)]
    for path, spec in files:
        write_random_task(path, spec, trajectories, rng)
    os.sync()  # otherwise the system writes to disk during the measurement
    for path, _ in files:
        _read_through(path)
    return files


def _open(folder: Path, files: list[tuple[Path, TaskSpec]]) -> M3DTDataModule:
    tasks = tuple(TaskStore.open(path, spec) for path, spec in files)
    stream = TaskStream(0, tuple(range(len(files))))
    loader = LoaderConfig(batch_size=BATCH)
    return M3DTDataModule(DatasetStore(folder, tasks, ""), loader, PAPER, 0, 1, stream)


def _read_through(path: Path) -> None:
    """Read a file once, so that the system caches as much of it as memory allows."""
    buffer = bytearray(2**22)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
