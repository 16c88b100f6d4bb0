"""The JSON that `m3dt bench` writes."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


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
    """Return a row without counts of operations.

    Args:
        name: Name of the row.
        config: What was measured.
        seconds: Median seconds.
        samples: Samples that are processed in this time.
        memory: Peak memory in bytes.
        note: A remark for the table.
    """
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
