"""What a person sees of a run: score tables and the list of its models."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from m3dt.config import Config
from m3dt.data.prompted_task import UNSEEN
from m3dt.evaluation.policies import AgentPolicy
from m3dt.evaluation.run_models import RunModel, run_model
from m3dt.evaluation.run_scores import ModelScore, film_model, score_models
from m3dt.evaluation.scores import ScoreSummary, TaskResult
from m3dt.runs.layout import check_run_folder
from m3dt.runs.registry import Registry
from m3dt.tasks import TASKS, get_task, make_env, tasks_of
from m3dt.tasks.rendering import check_rendering
from m3dt.utils.errors import UserError
from m3dt.utils.output_files import check_output, output_json


def evaluate_run(
    config: Config,
    names: Sequence[str],
    json_file: Path | None,
    console: Console,
    films: Sequence[str] = (),
    out: Path | None = None,
) -> None:
    """Evaluate models of a run, print a table, and write the last one's result as JSON.

    `names` are as for `run_model`; empty for the model of the configured method. `films` are tasks
    in which the last model is filmed. Results go into the folder `out`, by default the run's.

    Raises:
        UserError: The run lacks a model, a name is unknown, films cannot be rendered, or some of
            the tasks were trained on and others not.
    """
    run = Path(config.run)
    check_run_folder(run)
    out = out or run
    for path in filter(None, (out / "evaluation" / "scores", json_file)):
        check_output(path)
    if films:
        films = [get_task(task).name for task in films]
        check_films(films)
    models = [run_model(config, name) for name in names or [""]]
    unseen = unseen_tasks(models, tasks_of(config))
    scores = score_models(config, models, console, out)
    if json_file is not None:
        output_json(json_file, scores[-1].result)
    note = f"Not trained on: prompts and normalisation are from {config.evaluation.prompts}"
    console.print(score_table(scores, note if unseen else ""))
    if all(score.stored for score in scores):
        console.print("These models were evaluated before. Nothing to do.")
    for task in films:
        console.print(f"filmed {film_model(config, models[-1], task, out)}")


def check_films(tasks: Sequence[str]) -> None:
    """Check that tasks can be filmed, before hours of episodes.

    Raises:
        UserError: Rendering is off, or an environment returns no frames.
        RunError: An environment's own code fails to draw.
    """
    if any(task in TASKS for task in tasks):
        check_rendering()
    for task in tasks:
        if task not in TASKS:  # its own code draws
            env = make_env(task)
            env.reset(seed=0)
            env.render()
            env.close()


def unseen_tasks(models: Sequence[RunModel], tasks: Sequence[str]) -> list[str]:
    """Return the tasks that a model was not trained on: none or all, which make a table.

    Raises:
        UserError: Models were trained on some of the tasks only.
    """
    agents = [m.policy.agent for m in models if isinstance(m.policy, AgentPolicy)]
    unseen = [t for t in tasks if any(agent.task(t).index == UNSEEN for agent in agents)]
    if unseen and len(unseen) < len(tasks):
        raise UserError(
            f"tasks: the run was not trained on {', '.join(unseen)}, but on the others. Evaluate "
            f"them apart: tasks=[{','.join(unseen)}]."
        )
    return unseen


def score_table(scores: Sequence[ModelScore], note: str = "") -> Table:
    """Lay out scores: one row per task, one column per model, each with its 95 % interval.

    A note may be added below.
    """
    results = [score.result for score in scores]
    first = results[0]
    title = f"normalized score [95 % interval], {first['episodes']} episodes per task"
    caption = "MFLOP and ms are the model's, per action"
    caption += f"\n{note}" if note else ""
    by_data = [task for task in first["tasks"] if get_task(task).score is None]
    if by_data:
        caption += (
            f"\n{', '.join(by_data)}: random actions score 0 in the mean, the best trajectory of "
            "the data scores 100"
        )
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("task", no_wrap=True)
    for score in scores:
        method = score.result["method"]
        header = score.name if score.name == method else f"{method}\n({score.name})"
        table.add_column(header, justify="right", no_wrap=True)
    for task in first["tasks"]:
        table.add_row(task, *(_cell(result["tasks"][task]) for result in results))
    table.add_section()
    if len(first["domains"]) > 1:
        for domain in first["domains"]:
            table.add_row(domain, *(f"{result['domains'][domain]:.1f}" for result in results))
    table.add_row("mean over tasks", *map(_cell, results), style="bold")
    sizes = [f"{r['num_parameters']:,}" if r["num_parameters"] else "" for r in results]
    table.add_row("parameters", *sizes)
    table.add_row("MFLOP", *(_cost(r["flops_per_action"] / 1e6) for r in results))
    table.add_row("ms", *(_cost(r["ms_per_action"]) for r in results))
    return table


def _cost(value: float) -> str:
    return f"{value:,.2f}" if value else ""


def _cell(scores: ScoreSummary | TaskResult) -> str:
    if scores["ci95"] is None:
        return f"{scores['score']:.1f} (n = 1)"
    low, high = scores["ci95"]
    return f"{scores['score']:.1f} [{low:.1f}, {high:.1f}]"


def show_registry(run: Path, json_file: Path | None, console: Console) -> None:
    """List the models of a run and their parents.

    Raises:
        UserError: The folder holds no registry, or an entry is damaged.
    """
    if json_file is not None:
        check_output(json_file)
    registry = Registry(run)
    entries = registry.entries()
    if not entries:
        raise UserError(f"{run}: holds no registered model")
    if json_file is not None:
        output_json(json_file, {"run": str(run), "entries": [asdict(e) for e in entries]})
    columns = ("model", "step", "tasks", "parameters", "hash", "parents")
    table = Table(*columns, title=f"models of {run}", title_justify="left")
    for entry in entries:
        parents = [f"{key}@{digest[:8]}" for key, digest in entry.parents.items()]
        shown = ", ".join(parents[:3]) + (f" and {len(parents) - 3} more" if parents[3:] else "")
        size = "" if entry.kind == "grouping" else f"{registry.num_parameters(entry):,}"
        counts = (str(entry.step), str(len(entry.tasks)), size)
        table.add_row(entry.key, *counts, entry.hash[:8], shown)
    console.print(table)
