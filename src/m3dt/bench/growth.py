"""How time and memory grow with experts, width, tasks, environments and ranks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from m3dt.bench.acting import act, in_own_process
from m3dt.bench.batches import batches_row
from m3dt.bench.machine import peak_bytes
from m3dt.bench.steps import (
    BATCH,
    PAPER,
    Training,
    build_stage,
    random_batch,
    training_row,
    training_step,
)
from m3dt.stages import BackboneStage, Stage
from m3dt.stages.grouping import gradient_groups
from m3dt.utils.processes import process_pool

EXPERTS = (8, 16, 32, 64, 128)
WIDTHS = (128, 256, 512, 1024, 1536)
TASKS = (10, 40, 160, 640)
ENVIRONMENTS = (1, 4, 16, 64, 256)
RANKS = (1, 2)


def scaling_rows(gemm_gflops: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Measure every point in a process of its own."""
    for num_experts in EXPERTS:
        yield training_row(Training("experts", 3, num_experts, 1, plain=False), gemm_gflops)
    for width in WIDTHS:
        training = Training("width", 1, repeats=2, n_embd=width, plain=False)
        yield training_row(training, gemm_gflops)
    for num_tasks in TASKS:
        yield {**in_own_process(batches_row, num_tasks, 10), "name": "tasks, batches"}
        yield in_own_process(grouping_row, num_tasks)
    for environments in ENVIRONMENTS:
        row = in_own_process(act, 0, environments, gemm_gflops["float32"], False)
        yield {**row, "name": "environments"}
    for ranks in RANKS:
        yield ranks_row(ranks)


def grouping_row(num_tasks: int) -> dict[str, Any]:
    """Time K-means of N tasks into N / 4 groups, from the Gram matrix of random vectors."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_tasks, 2 * num_tasks))
    start = time.process_time()
    gradient_groups(vectors @ vectors.T, num_tasks // 4, restarts=40, seed=0)
    seconds = time.process_time() - start
    return _row("tasks, grouping", {"num_tasks": num_tasks}, seconds, num_tasks / seconds)


def ranks_row(ranks: int) -> dict[str, Any]:
    """Time optimiser steps of stage 1 on a batch that one or more processes share, by the clock."""
    with tempfile.TemporaryDirectory(prefix="m3dt-bench-") as folder, process_pool(ranks) as pool:
        place = str(Path(folder) / "ranks")
        jobs = [pool.submit(_rank, rank, ranks, place) for rank in range(ranks)]
        seconds, memory = jobs[0].result()
        for job in jobs:
            job.result()
    row = _row("ranks", {"ranks": ranks, "batch_size": BATCH}, seconds, BATCH / seconds)
    return {**row, "peak_bytes": memory, "note": "by the clock; memory of one rank"}


class _Predictions(torch.nn.Module):
    """What DDP wraps: its hooks want to see a forward pass."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, batch: Any) -> torch.Tensor:
        return self.stage.predictions(batch)


def _rank(rank: int, ranks: int, place: str) -> tuple[float, int]:
    torch.set_num_threads(1)
    limit = timedelta(seconds=300)
    dist.init_process_group("gloo", f"file://{place}", limit, ranks, rank)
    try:
        stage = build_stage(Training("ranks", 1))
        assert isinstance(stage, BackboneStage)
        batch = random_batch(BATCH // ranks, PAPER.context_length, PAPER.prompt_length)
        wrapped = DistributedDataParallel(_Predictions(stage))
        step = training_step(stage, batch, predictions=lambda: wrapped(batch))
        seconds = []
        for _ in range(10):
            dist.barrier()
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        return median(seconds[2:]), peak_bytes()
    finally:
        dist.destroy_process_group()


def _row(name: str, config: dict[str, Any], seconds: float, rate: float) -> dict[str, Any]:
    return {
        "name": name,
        "config": config,
        "median_seconds": seconds,
        "samples_per_second": rate,
        "model_flops": 0,
        "utilization": None,
        "peak_bytes": peak_bytes(),
        "note": "",
    }
