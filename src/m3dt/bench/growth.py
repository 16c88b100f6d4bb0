"""Growth of time and memory with experts, width, tasks, episodes and ranks."""

import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from m3dt.bench.batches import batches_row
from m3dt.bench.devices import Meter
from m3dt.bench.measuring import Row, in_own_process, make_row, seconds_of
from m3dt.bench.steps import (
    BATCH,
    PAPER,
    Training,
    act,
    build_stage,
    measure_training,
    random_batch,
    training_step,
)
from m3dt.data import Batch
from m3dt.stages import BackboneStage, Stage
from m3dt.stages.grouping import gradient_groups
from m3dt.utils.processes import process_pool

EXPERTS = (8, 16, 32, 64, 128)
WIDTHS = (128, 256, 512, 1024, 1536)
TASKS = (10, 40, 160, 640)
EPISODES = (1, 4, 16, 64, 256)
RANKS = (1, 2)


def scaling_rows(gemm_gflops: dict[str, float], device: str = "cpu") -> Iterator[Row]:
    """Measure each point in a process of its own; batches, grouping and ranks use the CPU."""
    for num_experts in EXPERTS:
        training = Training("experts", 3, num_experts, 1, plain=False)
        yield in_own_process(measure_training, training, gemm_gflops, device)
    for width in WIDTHS:
        training = Training("width", 1, repeats=2, n_embd=width, plain=False)
        yield in_own_process(measure_training, training, gemm_gflops, device)
    for num_tasks in TASKS:
        yield in_own_process(batches_row, num_tasks, 10)
        yield in_own_process(grouping_row, num_tasks)
    for episodes in EPISODES:
        row = in_own_process(act, 0, episodes, gemm_gflops["float32"], False, device)
        yield {**row, "name": "environments"}
    for ranks in RANKS:
        yield ranks_row(ranks)


def grouping_row(num_tasks: int) -> Row:
    """Time K-means of N tasks into N / 4 groups, from a Gram matrix of random vectors."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_tasks, 2 * num_tasks))
    seconds = seconds_of(
        lambda: gradient_groups(vectors @ vectors.T, num_tasks // 4, restarts=40, seed=0)
    )
    config = {"num_tasks": num_tasks}
    return make_row("tasks, grouping", config, seconds, num_tasks, Meter().peak_bytes())


def ranks_row(ranks: int) -> Row:
    """Measure the wall time of a step of stage 1 on a batch that some processes share."""
    with tempfile.TemporaryDirectory(prefix="m3dt-bench-") as folder, process_pool(ranks) as pool:
        store = str(Path(folder) / "ranks")
        jobs = [pool.submit(_rank, rank, ranks, store) for rank in range(ranks)]
        (seconds, memory), *_ = [job.result() for job in jobs]
    config, note = {"ranks": ranks, "batch_size": BATCH}, "wall time; memory of one rank"
    return make_row("ranks", config, seconds, BATCH, memory, note)


class _Predictions(torch.nn.Module):
    """A module whose forward pass DDP can hook into."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.stage.predictions(batch)


def _rank(rank: int, ranks: int, store: str) -> tuple[float, int]:
    """Return the median seconds of a step and the peak memory of a rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", timedelta(seconds=300), ranks, rank)
    try:
        stage = build_stage(1, 0, PAPER)
        assert isinstance(stage, BackboneStage)
        batch = random_batch(BATCH // ranks)
        wrapped = DistributedDataParallel(_Predictions(stage))
        step = training_step(stage, batch, predictions=lambda: wrapped(batch))
        seconds = []
        for _ in range(10):
            dist.barrier()
            seconds.append(seconds_of(step, time.perf_counter))
        return median(seconds[2:]), Meter().peak_bytes()
    finally:
        dist.destroy_process_group()
