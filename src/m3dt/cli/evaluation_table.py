"""The table of scores that `m3dt evaluate` prints."""

from collections.abc import Sequence

from rich.table import Table

from m3dt.evaluation.run_scores import ModelScore
from m3dt.evaluation.scores import ScoreSummary, TaskResult
from m3dt.tasks import get_task
from m3dt.utils.counts import counted


def score_table(scores: Sequence[ModelScore], note: str = "") -> Table:
    """Lay out scores: one row per task, one column per model, each with its 95 % interval.

    A note may be added below.
    """
    results = [score.result for score in scores]
    first = results[0]
    episodes = counted(first["episodes"], "episode")
    title = f"normalized score [95 % interval], {episodes} per task"
    caption = "MFLOP and ms are the model's, per action"
    caption += f"\n{note}" if note else ""
    by_data = [task for task in first["tasks"] if get_task(task).score is None]
    if by_data:
        caption += (
            f"\n{', '.join(by_data)}: random actions score 0 in the mean, the best trajectory of "
            "the data scores 100"
        )
    table = Table("task", title=title, caption=caption)
    for score in scores:
        method = score.result["method"]
        header = score.name if score.name == method else f"{method}\n({score.name})"
        table.add_column(header, justify="right")
    for task in first["tasks"]:
        table.add_row(task, *(score_cell(result["tasks"][task]) for result in results))
    table.add_section()
    if len(first["domains"]) > 1:
        for domain in first["domains"]:
            table.add_row(domain, *(f"{result['domains'][domain]:.1f}" for result in results))
    table.add_row("mean over tasks", *map(score_cell, results), style="bold")
    sizes = [f"{r['num_parameters']:,}" if r["num_parameters"] else "" for r in results]
    table.add_row("parameters", *sizes)
    table.add_row("MFLOP", *(_cost(r["flops_per_action"] / 1e6) for r in results))
    table.add_row("ms", *(_cost(r["ms_per_action"]) for r in results))
    return table


def _cost(value: float) -> str:
    return f"{value:,.2f}" if value else ""


def score_cell(scores: ScoreSummary | TaskResult) -> str:
    """Return a score with its interval, which one observation does not have."""
    if scores["ci95"] is None:
        return f"{scores['score']:.1f} (n = 1)"
    low, high = scores["ci95"]
    return f"{scores['score']:.1f} [{low:.1f}, {high:.1f}]"
