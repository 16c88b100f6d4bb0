"""Benchmarks: training steps and the data pipeline, beside this machine's matrix products."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from m3dt.config import LoaderConfig, ModelConfig, StageConfig
from m3dt.data import Batch, DatasetStore, M3DTDataModule, Stream
from m3dt.data.format import SCHEMA_VERSION, DatasetIndex, TaskEntry
from m3dt.models import PromptDT
from m3dt.stages import BackboneStage
from m3dt.tasks import TASKS, TaskSpec

# The paper's size, with the prompt length of the authors' code.
_PAPER = ModelConfig(prompt_length=5)


def bench(rows: list[str], trajectories: int, console: Console) -> dict[str, Any]:
    """Run benchmarks and print a table.

    Args:
        rows: Which: `stage1`, `data`.
        trajectories: Per task of the synthetic dataset of row `data`.
        console: Where the table goes.

    Returns:
        `machine` and `rows`, as `m3dt bench --json` writes them.
    """
    torch.set_num_threads(1)  # CPU seconds of one thread compare across busy machines
    gemm = {str(d).removeprefix("torch."): _gemm(d) for d in (torch.float32, torch.bfloat16)}
    machine = {"cpu": _cpu_name(), "torch": torch.__version__, "threads": 1, "gemm_gflops": gemm}
    measured = []
    if "stage1" in rows:
        measured.append(_stage1(gemm["float32"]))
    if "data" in rows:
        measured.append(_data(trajectories, console))
    table = Table(title=f"{machine['cpu']}, one thread, float32 {gemm['float32']:.0f} GFLOP/s")
    for column in ("row", "median ms", "samples/s", "utilization", "memory MB", "note"):
        table.add_column(column)
    for row in measured:
        used = row["utilization"]
        table.add_row(
            row["name"],
            f"{1e3 * row['median_seconds']:.2f}",
            f"{row['samples_per_second']:.0f}",
            "" if used is None else f"{used:.0%}",
            f"{row['peak_bytes'] / 2**20:.0f}",
            row["note"],
        )
    console.print(table)
    return {"machine": machine, "rows": measured}


def _median_seconds(step: Callable[[], Any], repeats: int, warmup: int = 3) -> float:
    """Return the median CPU seconds of a step; sharing the machine does not change them much."""
    for _ in range(warmup):
        step()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return median(seconds)


def _gemm(dtype: torch.dtype, size: int = 2048) -> float:
    a = torch.randn(size, size, dtype=dtype)
    return 2 * size**3 / _median_seconds(lambda: a @ a, 7) / 1e9


def _stage1(gemm_gflops: float) -> dict[str, Any]:
    """Time an optimiser step of stage 1 at the paper's size: forward, backward, clip, AdamW."""
    B, T, P = 16, _PAPER.context_length, _PAPER.prompt_length
    data = _memory_batch(B, T, P)
    stage = BackboneStage(PromptDT(_PAPER), StageConfig(), 0).train()
    optimizer = torch.optim.AdamW(stage.trainable().values(), lr=1e-4, fused=True)
    parameters = list(stage.trainable().values())

    def step() -> None:
        optimizer.zero_grad()
        stage.loss(data).backward()
        stage.clip(parameters)
        optimizer.step()

    seconds = _median_seconds(step, 15)
    flops = _training_flops(_PAPER, B * 3 * (T + P))
    return {
        "name": "stage1",
        "config": {"n_embd": _PAPER.n_embd, "n_layer": _PAPER.n_layer, "batch_size": B},
        "median_seconds": seconds,
        "samples_per_second": B / seconds,
        "model_flops": flops,
        "utilization": flops / seconds / 1e9 / gemm_gflops,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "note": "CPU seconds a step; width 256, 6 layers, batch 16, K 20, prompt 5",
    }


def _training_flops(model: ModelConfig, tokens: int) -> float:
    """Count the matrix products with weights of a forward and backward pass over all tokens."""
    weights = model.n_layer * 12 * model.n_embd**2
    return 6.0 * weights * tokens


def _memory_batch(B: int, T: int, P: int) -> Batch:
    from m3dt.data import Segment

    def segment(length: int) -> Segment:
        steps = torch.arange(length).expand(B, length)
        shapes = (torch.randn(B, length, 39), torch.rand(B, length, 8), torch.randn(B, length, 1))
        return Segment(*shapes, steps, torch.ones(B, length))

    weight = torch.full((B,), 1 / (B * T * 4))
    mask = (torch.arange(8) < 4).float().expand(B, 8)
    return Batch(segment(T), segment(P), mask, weight, torch.zeros(B, dtype=torch.long))


def _data(trajectories: int, console: Console) -> dict[str, Any]:
    """Time batches with prompts from 160 tasks on disk, and what they add to resident memory."""
    folder = Path(tempfile.mkdtemp(prefix="m3dt-bench-"))
    try:
        console.print(f"writing 160 tasks x {trajectories} trajectories to {folder} ...")
        _write_synthetic(folder, trajectories)
        os.sync()  # else the system writes to disk while we measure
        for path in folder.iterdir():
            _read_through(path)
        before = _resident_bytes()
        start = time.perf_counter()
        store = DatasetStore.open(folder, tuple(TASKS))
        opened = time.perf_counter() - start
        streams = [Stream(0, tuple(range(len(TASKS))))]
        module = M3DTDataModule(store, LoaderConfig(batch_size=16), _PAPER, 0, 1, streams)
        seconds, step = [], 0
        for step in range(2000):
            start = time.perf_counter()
            module.batch(step)
            seconds.append(time.perf_counter() - start)
        growth = _resident_bytes() - before
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


def _resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
