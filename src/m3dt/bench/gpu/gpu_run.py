"""Run the parts of `m3dt bench --gpu`: each in its own process, within a budget of time."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import torch
from rich.console import Console
from rich.markup import escape

from m3dt.bench.devices import Machine, describe_machine
from m3dt.bench.gpu.outcomes import FAILED, OK, Outcome, failure, not_measured, outcome
from m3dt.bench.gpu.parts import ROWS, Part, all_parts
from m3dt.bench.gpu.site import Site, Sizes
from m3dt.bench.measuring import in_own_process_within
from m3dt.utils.output_files import output_json
from m3dt.utils.processes import num_workers

NO_TIME = "no time left"
_MACHINE = "machine"
_LEAST = 5  # seconds in which a process can do anything
_MOST_BESIDE = 6  # checks at the same time, each with a CUDA context

Call = Callable[..., Any]  # of (limit, function, *arguments), as `in_own_process_within`


class GpuResult(TypedDict):
    """Everything that `m3dt bench --gpu` writes."""

    machine: Machine | None  # None if it could not be measured
    seconds: float
    outcomes: list[Outcome]


class Budget:
    """Counts down the seconds that are left.

    Args:
        seconds: In all.
        clock: Tells the time.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begin, self._seconds = clock, clock(), seconds

    def used(self) -> float:
        """Return the seconds since the start."""
        return self._clock() - self._begin

    def left(self) -> float:
        """Return the seconds that are left, possibly less than 0."""
        return self._seconds - self.used()


def gpu_bench(
    device: str,
    sizes: Sizes,
    budget: Budget,
    console: Console,
    file: Path | None = None,
    rows: Sequence[str] = ROWS,
) -> GpuResult:
    """Do all parts of some of `ROWS` while time is left. Whatever fails becomes an outcome.

    Args:
        device: `cuda`; on `cpu`, what needs a GPU is not measured.
        sizes: Of the work.
        budget: Of time.
        console: Receives each outcome.
        file: Where the result is written whenever a part has ended.
        rows: Names among `ROWS`.
    """
    result: GpuResult = {"machine": None, "seconds": 0.0, "outcomes": []}
    with tempfile.TemporaryDirectory(prefix="m3dt-bench-", ignore_cleanup_errors=True) as folder:
        site = Site(Path(folder), device, sizes)
        for found in _run(site, all_parts(sizes, rows), budget, result, in_own_process_within):
            result["outcomes"] += found
            result["seconds"] = budget.used()
            for each in found:
                _show(each, console)
            if file:
                output_json(file, result)
    return result


def nothing_measured(sizes: Sizes, reason: str, rows: Sequence[str] = ROWS) -> GpuResult:
    """Return the result where nothing can be done."""
    found = [not_measured(p.name, name, reason) for p in all_parts(sizes, rows) for name in p.names]
    return {"machine": None, "seconds": 0.0, "outcomes": found}


def _run(
    site: Site, parts: Sequence[Part], budget: Budget, result: GpuResult, call: Call
) -> Iterator[list[Outcome]]:
    try:
        site.write_data()
        result["machine"] = call(60, describe_machine, site.device)
    except Exception as error:
        yield [failure(_MACHINE, "dataset and peak", error)]
    if result["machine"]:
        site = site.knowing(result["machine"])
    run = partial(run_part, site, budget=budget, call=call)
    beside = [part for part in parts if part.beside]
    with ThreadPoolExecutor(max(1, min(_MOST_BESIDE, num_workers() // 2))) as pool:
        yield from pool.map(run, beside)
    for part in parts:
        if not part.beside:
            yield run(part)


def run_part(
    site: Site, part: Part, budget: Budget, call: Call = in_own_process_within
) -> list[Outcome]:
    """Run a part in a process of its own; return an outcome for each of its names, at least.

    The process writes outcomes to a file as they come, so that one that dies loses only the rest.
    """
    limit = min(part.limit, budget.left())
    if limit < _LEAST:
        return [not_measured(part.name, name, NO_TIME) for name in part.names]
    file = site.folder / f"{part.name}-{part.names[0]}.jsonl".replace(" ", "").replace("/", "-")
    problem = None
    try:
        call(limit, write_outcomes, part, site, file)
    except TimeoutError:
        if limit == part.limit:
            text = f"stopped after {limit:.0f} s"
            problem = outcome(part.name, "", FAILED, problem=text)
        else:
            problem = not_measured(part.name, "", NO_TIME)
    except Exception as error:  # a process that was killed or crashed
        problem = failure(part.name, "", error)
    lines = file.read_text().splitlines() if file.exists() else []
    found: list[Outcome] = [json.loads(line) for line in lines]
    names = [each["name"] for each in found]
    missing = [name for name in part.names if name not in names]
    if problem is not None:
        problem["name"] = missing[0] if missing else part.names[-1]
        found.append(problem)
    reason = NO_TIME if problem and problem["problem"] == NO_TIME else "not reached"
    return found + [not_measured(part.name, name, reason) for name in missing[bool(problem) :]]


def write_outcomes(part: Part, site: Site, file: Path) -> None:
    """Run a part in this process and append its outcomes to a file, one a line."""
    if part.beside:
        _share_processor()
    with file.open("a") as opened:
        for each in part.function(site, *part.arguments):
            opened.write(json.dumps(each) + "\n")
            opened.flush()


def _share_processor() -> None:
    """Run operations of this process and of its children on a share of the processor's threads."""
    threads = max(1, num_workers() // _MOST_BESIDE)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def _show(each: Outcome, console: Console) -> None:
    color = {OK: "green"}.get(each["status"], "red" if each["traceback"] else "yellow")
    shown = ", ".join(f"{k} {_short(v)}" for k, v in each["measured"].items() if v is not None)
    text = escape(each["problem"] or shown)
    console.print(f"  [{color}]{each['status']}[/] {each['part']}: {each['name']}: {text}")
    if each["traceback"]:
        console.print(escape(each["traceback"]), style="dim")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
