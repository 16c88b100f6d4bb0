"""Measure the behaviour policies in the real environments."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from m3dt.behaviour.ladder import Ladder
from m3dt.behaviour.library import Library
from m3dt.behaviour.player import Player
from m3dt.tasks import DOMAINS, TASKS, get_task, paper_score
from m3dt.utils.console import progress_bar
from m3dt.utils.counts import counted
from m3dt.utils.output_files import check_output, write_output
from m3dt.utils.processes import num_workers, process_pool


@dataclass(frozen=True)
class Measurement:
    """Episodes of a task's best policy without noise, compared with random play."""

    task: str
    domain: str
    behaviour: str
    episodes: int
    score: float
    return_mean: float
    return_std: float
    success_rate: float
    random_return: float
    paper_score: float
    """Score of the paper's policy trained on this task alone."""


def measure_task(task: str, episodes: int, library: Library) -> Measurement:
    """Play and measure a task's best policy and random play."""
    spec = get_task(task)
    player = Player(spec, library)
    ladder = player.ladder
    rng = np.random.default_rng((7, *task.encode()))
    best = [player.play(ladder.best, rng) for _ in range(episodes)]
    random = [player.play(ladder.rungs[0], rng) for _ in range(max(episodes // 2, 1))]
    returns = np.array([t.episode_return for t in best])
    scores = [spec.normalized_score(t.episode_return, bool(t.success)) for t in best]
    return Measurement(
        task=task,
        domain=spec.domain,
        behaviour=ladder.describe()["behaviour"],
        episodes=episodes,
        score=float(np.mean(scores)),
        return_mean=float(returns.mean()),
        return_std=float(returns.std()),
        success_rate=float(np.mean([bool(t.success) for t in best])),
        random_return=float(np.mean([t.episode_return for t in random])),
        paper_score=paper_score(task),
    )


def measure(
    tasks: Sequence[str], episodes: int, library: Library, console: Console
) -> list[Measurement]:
    """Measure tasks in parallel and return their results in order.

    Raises:
        UserError: A task has no behaviour policy.
    """
    for task in tasks:
        Ladder(get_task(task), library)  # fail early if a policy is missing
    with progress_bar(console, "tasks") as bar, process_pool(num_workers()) as pool:
        row = bar.add_task("measuring behaviour", total=len(tasks))
        futures = [pool.submit(measure_task, task, episodes, library) for task in tasks]
        results = []
        for future in futures:
            results.append(future.result())
            bar.advance(row)
    return results


def measure_and_show(
    names: Sequence[str],
    episodes: int,
    library: str | Path,
    csv_file: Path | None,
    console: Console,
) -> None:
    """Measure tasks (all, if none is named), print a table and domain means, and write a CSV file.

    Raises:
        UserError: A task is unknown or has no behaviour policy.
    """
    if csv_file:
        check_output(csv_file)
    tasks = [get_task(name).name for name in names] or list(TASKS)
    results = measure(tasks, episodes, Library(library), console)
    table = Table("task", "score", "return", "success", "random return", "paper, single task")
    for m in results:
        spread = f"{m.return_mean:.0f} +- {m.return_std:.0f}"
        success = f"{m.success_rate:.0%}" if m.domain == "metaworld" else ""
        numbers = (spread, success, f"{m.random_return:.0f}", f"{m.paper_score:.0f}")
        table.add_row(m.task, f"{m.score:.0f}", *numbers)
    console.print(table)
    for domain in DOMAINS:
        scores = [m.score for m in results if m.domain == domain]
        if scores:
            over = counted(len(scores), "task")
            console.print(f"{domain}: mean score {np.mean(scores):.1f} over {over}")
    if csv_file:
        write_measurements(csv_file, results)


def write_measurements(path: Path, measurements: Sequence[Measurement]) -> None:
    """Write measurements as CSV, with two decimals."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(Measurement.__dataclass_fields__))
    writer.writeheader()
    for measurement in measurements:
        row = vars(measurement).items()
        writer.writerow({k: round(v, 2) if isinstance(v, float) else v for k, v in row})
    write_output(path, lines.getvalue())
