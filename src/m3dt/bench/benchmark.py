"""Benchmarks of training steps, data, acting and their scaling, relative to the machine's peak."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from m3dt.bench.batches import batches_row
from m3dt.bench.devices import Machine, describe_machine
from m3dt.bench.growth import scaling_rows
from m3dt.bench.measuring import BenchResult, Row, in_own_process
from m3dt.bench.method_costs import methods_rows
from m3dt.bench.steps import act, measure_training, stage_trainings
from m3dt.tasks import TASKS
from m3dt.utils.counts import counted
from m3dt.utils.processes import single_threaded

ROWS = ("stages", "data", "acting", "scaling", "methods")


def bench(
    rows: Sequence[str], trajectories: int, console: Console, device: str = "cpu"
) -> BenchResult:
    """Run some of `ROWS` on one thread and print tables.

    Args:
        rows: Names among `ROWS`.
        trajectories: Size of the synthetic dataset of row `data`, per task.
        console: Receives the rows and their table.
        device: Where models train and act.
    """
    with single_threaded():  # CPU seconds of one thread are comparable on a busy machine
        machine = in_own_process(_describe, device)
        peak = machine["gemm_gflops"]
        console.print(
            f"{machine['device']}, one thread: products of large matrices at "
            f"{peak['float32']:.0f} GFLOP/s in float32, {peak['bfloat16']:.0f} in bfloat16"
        )
        measured = []
        for row in _measure(rows, trajectories, peak, console, device):
            ms = 1e3 * row["median_seconds"]
            console.print(f"  {row['name']} {_distinction(row)}: {ms:.4g} ms")
            measured.append(row)
        if measured:
            console.print(_table(measured))
        if "methods" in rows:
            measured += methods_rows(console, device)
    return {"machine": machine, "rows": measured}


def _measure(
    rows: Sequence[str],
    trajectories: int,
    peak: dict[str, float],
    console: Console,
    device: str,
) -> Iterator[Row]:
    if "stages" in rows:
        for training in stage_trainings():
            yield in_own_process(measure_training, training, peak, device)
    if "acting" in rows:
        for num_experts, chosen in ((0, 0), (40, 0), (40, 1), (40, 4), (128, 1)):
            compare = num_experts < 128
            yield in_own_process(act, num_experts, 10, peak["float32"], compare, device, chosen)
    if "data" in rows:
        console.print(
            f"writing {counted(len(TASKS), 'task')} x {counted(trajectories, 'trajectory')} ..."
        )
        yield {**batches_row(len(TASKS), trajectories), "name": "data"}
    if "scaling" in rows:
        yield from scaling_rows(peak, device)


def _describe(device: str) -> Machine:
    with single_threaded():  # a new process begins with as many threads as cores
        return describe_machine(device)


def _distinction(row: Row) -> str:
    """Return what distinguishes a row from others of its name."""
    keys = ["num_experts", "chosen", "precision", "environments", "num_tasks", "ranks"]
    if row["name"] == "width":
        keys.append("n_embd")
    config = row["config"]
    parts = (f"{key.removeprefix('num_')} {config[key]}" for key in keys if config.get(key))
    return ", ".join(part.replace("precision ", "") for part in parts)


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="median time of an optimiser step, batch or action", title_justify="left")
    for column in ("row", "of", "ms", "plain ms", "ratio", "utilization", "memory MB", "note"):
        table.add_column(column, justify="left" if column in ("row", "of", "note") else "right")
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
