"""Benchmarks of training steps, data, acting and their scaling, relative to the machine's peak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.table import Table

from m3dt.bench.acting import acting_rows
from m3dt.bench.batches import data_row
from m3dt.bench.growth import scaling_rows
from m3dt.bench.machine import cpu_name, gemm
from m3dt.bench.method_costs import methods_rows
from m3dt.bench.rows import BenchResult, Machine, Row
from m3dt.bench.steps import PRECISIONS, stage_trainings, training_row
from m3dt.utils.processes import single_threaded

ROWS = ("stages", "data", "acting", "scaling", "methods")


def bench(rows: Sequence[str], trajectories: int, console: Console) -> BenchResult:
    """Run benchmarks on one thread and print tables.

    Args:
        rows: Some of `ROWS`.
        trajectories: Trajectories per task of the synthetic dataset of row `data`.
        console: Where the tables are printed.
    """
    with single_threaded():  # CPU seconds of one thread are comparable on a busy machine
        machine = _machine()
        peak = machine["gemm_gflops"]
        console.print(
            f"{machine['cpu']}, one thread: products of 2048 x 2048 matrices at "
            f"{peak['float32']:.0f} GFLOP/s in float32, {peak['bfloat16']:.0f} in bfloat16"
        )
        measured = []
        for row in _measure(rows, trajectories, peak, console):
            ms = 1e3 * row["median_seconds"]
            console.print(f"  {row['name']} {_distinction(row)}: {ms:.4g} ms")
            measured.append(row)
        if measured:
            console.print(_table(measured))
        if "methods" in rows:
            measured += methods_rows(console)
    return {"machine": machine, "rows": measured}


def _machine() -> Machine:
    peak = {str(dtype).removeprefix("torch."): gemm(dtype) for dtype in PRECISIONS.values()}
    return {"cpu": cpu_name(), "torch": torch.__version__, "threads": 1, "gemm_gflops": peak}


def _measure(
    rows: Sequence[str], trajectories: int, peak: dict[str, float], console: Console
) -> Iterator[Row]:
    if "stages" in rows:
        for training in stage_trainings():
            yield training_row(training, peak)
    if "acting" in rows:
        yield from acting_rows(peak["float32"])
    if "data" in rows:
        yield data_row(trajectories, console)
    if "scaling" in rows:
        yield from scaling_rows(peak)


def _distinction(row: Row) -> str:
    """Return what distinguishes a row from others of its name."""
    keys = ["num_experts", "precision", "environments", "num_tasks", "ranks"]
    if row["name"] == "width":
        keys.append("n_embd")
    config = row["config"]
    parts = (f"{key.removeprefix('num_')} {config[key]}" for key in keys if config.get(key))
    return ", ".join(part.replace("precision ", "") for part in parts)


def _table(rows: Sequence[Row]) -> Table:
    title = "median time of an optimiser step, batch or action"
    table = Table(title=title, title_justify="left")
    for column in ("row", "of", "ms", "plain ms", "ratio", "utilization", "memory MB", "note"):
        left = column in ("row", "of", "note")
        table.add_column(column, justify="left" if left else "right")
    for row in rows:
        table.add_row(
            row["name"],
            _distinction(row),
            f"{1e3 * row['median_seconds']:.2f}",
            f"{1e3 * row['plain_seconds']:.2f}" if "plain_seconds" in row else "",
            f"{row['ratio']:.2f}" if "ratio" in row else "",
            "" if row["utilization"] is None else f"{row['utilization']:.0%}",
            f"{row['peak_bytes'] / 2**20:.0f}",
            row["note"],
        )
    return table
