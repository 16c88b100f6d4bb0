"""Benchmarks: training steps and the data pipeline, beside this machine's matrix products."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from m3dt.bench.machine import cpu_name, gemm
from m3dt.bench.methods import methods_rows
from m3dt.bench.pipeline import data_row
from m3dt.bench.steps import stage1_row

ROWS = ("stage1", "data", "methods")


def bench(rows: list[str], trajectories: int, console: Console) -> dict[str, Any]:
    """Run benchmarks and print tables.

    Args:
        rows: Which of `ROWS`.
        trajectories: Per task of the synthetic dataset of row `data`.
        console: Where the tables go.

    Returns:
        `machine` and `rows`, as `m3dt bench --json` writes them.
    """
    torch.set_num_threads(1)  # CPU seconds of one thread compare across busy machines
    peak = {str(d).removeprefix("torch."): gemm(d) for d in (torch.float32, torch.bfloat16)}
    machine = {"cpu": cpu_name(), "torch": torch.__version__, "threads": 1, "gemm_gflops": peak}
    measured = []
    if "stage1" in rows:
        measured.append(stage1_row(peak["float32"]))
    if "data" in rows:
        measured.append(data_row(trajectories, console))
    if measured:
        title = f"{machine['cpu']}, one thread, float32 {peak['float32']:.0f} GFLOP/s"
        console.print(_table(title, measured))
    if "methods" in rows:
        measured += methods_rows(console)
    return {"machine": machine, "rows": measured}


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    for column in ("row", "median ms", "samples/s", "utilization", "memory MB", "note"):
        table.add_column(column)
    for row in rows:
        used = row["utilization"]
        table.add_row(
            row["name"],
            f"{1e3 * row['median_seconds']:.2f}",
            f"{row['samples_per_second']:.0f}",
            "" if used is None else f"{used:.0%}",
            f"{row['peak_bytes'] / 2**20:.0f}",
            row["note"],
        )
    return table
