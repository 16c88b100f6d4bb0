"""Benchmarks: training steps, data, acting, and how they scale, beside the machine's peak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from m3dt.bench.acting import acting_rows
from m3dt.bench.batches import data_row
from m3dt.bench.growth import scaling_rows
from m3dt.bench.machine import cpu_name, gemm
from m3dt.bench.method_costs import methods_rows
from m3dt.bench.steps import PRECISIONS, stage_trainings, training_row

ROWS = ("stages", "data", "acting", "scaling", "methods")


def bench(rows: list[str], trajectories: int, console: Console) -> dict[str, Any]:
    """Run benchmarks and print tables.

    Args:
        rows: Which of `ROWS`.
        trajectories: Per task of the synthetic dataset of row `data`.
        console: Where the tables go.

    Returns:
        `machine` and `rows`, as `m3dt bench --json` writes them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # CPU seconds of one thread compare across busy machines
    try:
        peak = {str(d).removeprefix("torch."): gemm(d) for d in PRECISIONS.values()}
        machine = {"cpu": cpu_name(), "torch": torch.__version__, "threads": 1, "gemm_gflops": peak}
        console.print(
            f"{machine['cpu']}, one thread: products of 2048 x 2048 matrices at "
            f"{peak['float32']:.0f} GFLOP/s in float32, {peak['bfloat16']:.0f} in bfloat16"
        )
        measured = list(_measured(rows, trajectories, peak, console))
        if measured:
            console.print(_table(measured))
        if "methods" in rows:
            measured += methods_rows(console)
    finally:
        torch.set_num_threads(threads)
    return {"machine": machine, "rows": measured}


def _measured(
    rows: list[str], trajectories: int, peak: dict[str, float], console: Console
) -> Iterator[dict[str, Any]]:
    if "stages" in rows:
        for training in stage_trainings():
            yield _shown(training_row(training, peak), console)
    if "acting" in rows:
        for row in acting_rows(peak["float32"]):
            yield _shown(row, console)
    if "data" in rows:
        yield _shown(data_row(trajectories, console), console)
    if "scaling" in rows:
        for row in scaling_rows(peak):
            yield _shown(row, console)


def _shown(row: dict[str, Any], console: Console) -> dict[str, Any]:
    """Say that a row is done: the whole takes minutes."""
    console.print(f"  {row['name']} {_what(row)}: {1e3 * row['median_seconds']:.4g} ms")
    return row


_TOLD = ("num_experts", "precision", "environments", "num_tasks", "ranks")


def _what(row: dict[str, Any]) -> str:
    """Return what tells a row from others of its name."""
    config = row["config"]
    told = [*_TOLD, "n_embd"] if row["name"] == "width" else _TOLD
    parts = (f"{key.removeprefix('num_')} {config[key]}" for key in told if config.get(key))
    return ", ".join(part.replace("precision ", "") for part in parts)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="an optimiser step, batch or action: medians", title_justify="left")
    for column in ("row", "of", "ms", "plain ms", "ratio", "utilization", "memory MB", "note"):
        left = column in ("row", "of", "note")
        table.add_column(column, justify="left" if left else "right")
    for row in rows:
        used = row["utilization"]
        plain = row.get("plain_seconds")
        table.add_row(
            row["name"],
            _what(row),
            f"{1e3 * row['median_seconds']:.2f}",
            "" if plain is None else f"{1e3 * plain:.2f}",
            "" if plain is None else f"{row['ratio']:.2f}",
            "" if used is None else f"{used:.0%}",
            f"{row['peak_bytes'] / 2**20:.0f}",
            row["note"],
        )
    return table
