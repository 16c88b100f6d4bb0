"""Evaluate models of a run: what is asked is checked before the first episode."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from m3dt.cli.evaluation_table import score_table
from m3dt.config import Config
from m3dt.data.prompted_task import UNSEEN
from m3dt.evaluation.policies import AgentPolicy
from m3dt.evaluation.run_models import RunModel, run_model
from m3dt.evaluation.run_scores import film_model, score_models
from m3dt.runs.layout import check_run_folder
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

    `names` are as for `run_model`; empty for the model of the configured method. A model that is
    named twice is evaluated once. `films` are tasks
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
        films = [get_task(task).name for task in dict.fromkeys(films)]
        check_films(films, tasks_of(config))
    named = [run_model(config, name) for name in names or [""]]
    models = list({model.name: model for model in named}.values())  # several names may mean one
    unseen = unseen_tasks(models, tasks_of(config))
    scores = score_models(config, models, console, out)
    if json_file is not None:
        output_json(json_file, {"models": {score.name: score.result for score in scores}})
    note = f"Not trained on: prompts and normalisation are from {config.evaluation.prompts}"
    console.print(score_table(scores, note if unseen else ""))
    if all(score.stored for score in scores):
        console.print("These models were evaluated before. Nothing to do.")
    for task in films:
        console.print(f"filmed {film_model(config, named[-1], task, out)}")


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
                f"--film {task}: is not evaluated.{nearest(task, tasks)} Evaluate it: "
                f"tasks=[{task}]."
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
