"""What a person sees of a run: score tables and the list of its models."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from m3dt.config import Config
from m3dt.data.prompted_task import UNSEEN
from m3dt.evaluation.policies import AgentPolicy
from m3dt.evaluation.run_models import RunModel, run_model
from m3dt.evaluation.run_scores import ModelScore, film_model, score_models
from m3dt.evaluation.scores import ScoreSummary, TaskResult
from m3dt.runs.entries import Entry
from m3dt.runs.evaluations import Evaluation, evaluations
from m3dt.runs.layout import check_run_folder
from m3dt.runs.registry import Registry
from m3dt.tasks import TASKS, get_task, make_env, tasks_of
from m3dt.tasks.rendering import check_rendering
from m3dt.utils.errors import RunError, UserError, nearest
from m3dt.utils.output_files import check_output, output_json


def evaluate_run(
    config: Config,
    names: Sequence[str],
    json_file: Path | None,
    console: Console,
    films: Sequence[str] = (),
    out: Path | None = None,
) -> None:
    """Evaluate models of a run, print a table, and write the results as JSON, by model.

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
        check_films(films, tasks_of(config))
    models = [run_model(config, name) for name in names or [""]]
    unseen = unseen_tasks(models, tasks_of(config))
    scores = score_models(config, models, console, out)
    if json_file is not None:
        output_json(json_file, {"models": {score.name: score.result for score in scores}})
    note = f"Not trained on: prompts and normalisation are from {config.evaluation.prompts}"
    console.print(score_table(scores, note if unseen else ""))
    if all(score.stored for score in scores):
        console.print("These models were evaluated before. Nothing to do.")
    for task in films:
        console.print(f"filmed {film_model(config, models[-1], task, out)}")


def check_films(films: Sequence[str], tasks: Sequence[str]) -> None:
    """Check that tasks can be filmed, before hours of episodes.

    Args:
        films: Tasks to be filmed.
        tasks: Those that are evaluated.

    Raises:
        UserError: A task is not evaluated, rendering is off, or an environment returns no frames.
    """
    for task in films:
        if task not in tasks:
            raise UserError(
                f"--film {task}: is not evaluated.{nearest(task, tasks)} Evaluate it, too: "
                f"tasks=[{','.join([*tasks[:2], *(['...'] if tasks[2:] else []), task])}]."
            )
    drawn = [task for task in films if task in TASKS][:1]  # one renderer draws them all
    for task in (*drawn, *(task for task in films if task not in TASKS)):
        try:
            _draw(task)
        except (UserError, RunError) as error:
            problem = str(error).rstrip(".")
            raise UserError(
                f"--film {task}: {problem}. Without --film, nothing is drawn."
            ) from None


def _draw(task: str) -> None:
    """Draw a frame of a task, or check that the renderer of all ours does."""
    if task in TASKS:
        check_rendering()
        return
    env = make_env(task)  # its own code draws
    try:
        env.reset(seed=0)
        env.render()
    finally:
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
    table = Table("task", title=title, caption=caption)
    for score in scores:
        method = score.result["method"]
        header = score.name if score.name == method else f"{method}\n({score.name})"
        table.add_column(header, justify="right")
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
    """List the models of a run: score, parameters, date, size on disk, and their parents.

    Raises:
        UserError: The folder holds no registry, or an entry is damaged.
    """
    if json_file is not None:
        check_output(json_file)
    registry = Registry(run)
    entries = registry.entries()
    if not entries:
        raise UserError(f"{run}: holds no registered model")
    found, notes = evaluations(run)
    listed = {entry.key: _listed(registry, entry, found) for entry in entries}
    if json_file is not None:
        described = [asdict(entry) for entry in entries]
        output_json(json_file, {"run": str(run), "entries": described, "models": listed})
    table = Table("model", title=f"models of {run}")
    for column in ("score", "step", "tasks", "parameters", "size", "date", "hash"):
        table.add_column(column, justify="right")
    table.add_column("parents", max_width=36)
    for entry in entries:
        own = listed[entry.key]
        parents = [f"{key}@{digest[:8]}" for key, digest in entry.parents.items()]
        shown = ", ".join(parents[:3]) + (f" and {len(parents) - 3} more" if parents[3:] else "")
        size = "" if own["parameters"] is None else f"{own['parameters']:,}"
        counts = (str(entry.step), str(len(entry.tasks)), size, _bytes(own["bytes"]))
        score = _score_of(entry, own["evaluation"])
        date = datetime.fromisoformat(own["written"]).strftime("%Y-%m-%d %H:%M")
        table.add_row(entry.key, score, *counts, date, entry.hash[:8], shown)
    console.print(table)
    for note in notes:
        console.print(f"  {note}", style="yellow")


def _listed(registry: Registry, entry: Entry, found: Sequence[Evaluation]) -> dict[str, Any]:
    """Return what is known of a model besides its entry; `evaluation` is the newest of it.

    Evaluations in which its experts act as the run's settings say come before others.
    """
    files = [path.stat() for path in registry.file(entry).parent.iterdir() if path.is_file()]
    own = [one for one in found if one.result["weights"] == entry.hash]
    own = [one for one in own if "@" not in one.model] or own
    return {
        "parameters": None if entry.kind == "grouping" else registry.num_parameters(entry),
        "bytes": sum(file.st_size for file in files),
        "written": datetime.fromtimestamp(max(file.st_mtime for file in files)).isoformat(),
        "evaluation": asdict(own[-1]) if own else None,
    }


def _score_of(entry: Entry, evaluation: Mapping[str, Any] | None) -> str:
    """Return a model's score, with the number of tasks where it was not scored on its own."""
    if evaluation is None:
        return ""
    result: Any = evaluation["result"]
    same = set(result["tasks"]) == set(entry.tasks)
    return _cell(result) + ("" if same else f" on {len(result['tasks'])} tasks")


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
