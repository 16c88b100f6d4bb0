"""The rows that `m3dt bench` writes, and tools of measurement: clocks, memory, processes."""

import platform
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NotRequired, ParamSpec, TypedDict, TypeVar

import torch

from m3dt.utils.processes import process_pool

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Row(TypedDict):
    """One measurement.

    `config` says what was measured, with keys that depend on the row. The times are of an optimiser
    step, a batch or an action. `model_flops` are those of the plain method, and `performed_flops`
    those of the measured code, which `utilization` relates to the machine's peak. Keys that begin
    with `plain_` measure the plain method, and `ratio` is its time over the measured time.
    """

    name: str
    config: dict[str, Any]
    median_seconds: float
    samples_per_second: float
    model_flops: int
    performed_flops: NotRequired[int]
    utilization: float | None
    peak_bytes: int
    plain_seconds: NotRequired[float]
    plain_peak_bytes: NotRequired[int]
    ratio: NotRequired[float]
    opened_seconds: NotRequired[float]
    note: str


class Machine(TypedDict):
    """The machine, with GFLOP/s of matrix products by precision."""

    cpu: str
    torch: str
    threads: int
    gemm_gflops: dict[str, float]


class BenchResult(TypedDict):
    """Everything that `m3dt bench --json` writes."""

    machine: Machine
    rows: list[Row]


def make_row(
    name: str, config: dict[str, Any], seconds: float, samples: float, memory: int, note: str = ""
) -> Row:
    """Return a row without counts of operations, of `samples` processed in `seconds`."""
    return {
        "name": name,
        "config": config,
        "median_seconds": seconds,
        "samples_per_second": samples / seconds,
        "model_flops": 0,
        "utilization": None,
        "peak_bytes": memory,
        "note": note,
    }


def median_seconds(step: Callable[[], object], repeats: int, warmup: int = 3) -> float:
    """Return the median CPU seconds of a step, which other load on the machine changes little."""
    for _ in range(warmup):
        step()
    return alternate_seconds([step], repeats)[0]


def seconds_of(step: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Return the seconds that a step takes, by default of CPU time."""
    start = clock()
    step()
    return clock() - start


def alternate_seconds(steps: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median CPU seconds of each of several steps, which the caller has warmed up.

    The steps take turns, so that other load on the machine affects all of them equally.
    """
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats):
        for step, times in zip(steps, seconds, strict=True):
            times.append(seconds_of(step))
    return [median(times) for times in seconds]


def gemm(dtype: torch.dtype, size: int = 2048) -> float:
    """Return the GFLOP/s of square matrix products."""
    a = torch.randn(size, size, dtype=dtype)
    return 2 * size**3 / median_seconds(lambda: a @ a, 7) / 1e9


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def peak_bytes() -> int:
    """Return the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_name() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def in_own_process(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call a function in a fresh process, whose peak memory is that of the call alone."""
    with process_pool(1) as pool:
        return pool.submit(function, *args, **kwargs).result()
