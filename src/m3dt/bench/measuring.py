"""The rows that `m3dt bench` writes, and how they are timed."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NotRequired, ParamSpec, TypedDict, TypeVar

from m3dt.bench.devices import Machine
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


def median_seconds(
    step: Callable[[], object],
    repeats: int,
    warmup: int = 3,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Return the median seconds of a step, by default of CPU time."""
    for _ in range(warmup):
        step()
    return alternate_seconds([step], repeats, clock)[0]


def seconds_of(step: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Return the seconds that a step takes, by default of CPU time."""
    start = clock()
    step()
    return clock() - start


def alternate_seconds(
    steps: Sequence[Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.process_time,
) -> list[float]:
    """Return the median seconds of each of several steps, which the caller has warmed up.

    The steps take turns, so that other load on the machine affects all of them equally.
    """
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats):
        for step, times in zip(steps, seconds, strict=True):
            times.append(seconds_of(step, clock))
    return [median(times) for times in seconds]


def in_own_process(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call a function in a fresh process, whose peak memory is that of the call alone."""
    return in_own_process_within(None, function, *args, **kwargs)


def in_own_process_within(
    limit: float | None,
    function: Callable[Arguments, Result],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Result:
    """Call a function in a fresh process that is killed after `limit` seconds.

    Raises:
        TimeoutError: It was killed.
    """
    with process_pool(1) as pool:
        called = pool.submit(function, *args, **kwargs)
        try:
            return called.result(limit)
        except TimeoutError:
            for process in list((pool._processes or {}).values()):
                process.kill()  # it may catch SIGTERM, or wait for a device
            raise
