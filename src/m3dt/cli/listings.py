"""Print suites of tasks and datasets."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from m3dt.data.statistics import compare_scales, describe, outliers
from m3dt.tasks import DOMAINS, get_task, paper_score, suite
from m3dt.utils.counts import agreeing, counted
from m3dt.utils.output_files import check_output, output_json


def print_tasks(name: str, seed: int, console: Console) -> None:
    """Print the tasks of a suite, their domains and their mean single-task score.

    Raises:
        UserError: The suite does not exist.
    """
    specs = [get_task(task) for task in suite(name, seed)]
    table = Table("task", "domain", "states", "actions", "steps", "paper's single-task score")
    for spec in specs:
        numbers = (spec.state_dim, spec.action_dim, spec.horizon, f"{paper_score(spec.name):.0f}")
        table.add_row(spec.name, spec.domain, *map(str, numbers))
    console.print(table)
    domains = [spec.domain for spec in specs]
    counts = ", ".join(f"{domains.count(d)} {d}" for d in DOMAINS if d in domains)
    mean = sum(paper_score(spec.name) for spec in specs) / len(specs)
    console.print(f"{counted(len(specs), 'task')} ({counts}), mean single-task score {mean:.1f}")


def print_dataset(folder: Path, json_file: Path | None, console: Console) -> None:
    """Print the tasks of a dataset, and the state dimensions that differ from the original's.

    Raises:
        UserError: The dataset does not exist.
    """
    if json_file:
        check_output(json_file)
    description = describe(folder)
    table = Table("task", "behaviour", "trajectories", "returns: quartiles", "success")
    for task, described in description.items():
        quartiles = " .. ".join(f"{value:.0f}" for value in described["return_quartiles"])
        known = get_task(task).domain == "metaworld" and described["success_rate"] is not None
        success = f"{described['success_rate']:.0%}" if known else ""
        count = str(described["trajectories"])
        table.add_row(task, described["behaviour"], count, quartiles, success)
    console.print(table)
    scales = compare_scales(description)
    different = outliers(scales)
    table = Table("task", "dimension", "mean", "std", "original mean", "original std", "ratio")
    for s in different:
        numbers = (f"{v:.3f}" for v in (s.mean, s.std, s.original_mean, s.original_std))
        table.add_row(s.task, str(s.dimension), *numbers, f"{s.ratio:.2g}")
    if different:
        console.print(table)
    console.print(
        f"{len(different)} of {counted(len(scales), 'state dimension')} "
        f"{agreeing(len(different), 'differs', 'differ')} from the original dataset in "
        "scale by more than a factor of 3"
    )
    if json_file:
        output_json(json_file, description)
