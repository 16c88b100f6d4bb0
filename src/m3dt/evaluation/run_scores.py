"""Evaluate the models of a run: results are stored, reused, and shown in TensorBoard."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from m3dt.config import Config
from m3dt.evaluation.evaluator import Journal, evaluate_policy
from m3dt.evaluation.policies import AgentPolicy
from m3dt.evaluation.run_models import RunModel
from m3dt.evaluation.scores import RunResult
from m3dt.evaluation.video import animation, film
from m3dt.plots.tensorboard import write_hyperparameters, write_scores, write_video
from m3dt.runs.evaluations import Evaluation, evaluation_file, read_evaluation
from m3dt.runs.model_card import write_card
from m3dt.tasks import SIMULATORS, get_task, tasks_of
from m3dt.tasks.identity import own_identities
from m3dt.tasks.workers import WorkerPool
from m3dt.utils.files import atomic_path, fingerprint
from m3dt.utils.paths import file_stem
from m3dt.utils.processes import num_workers
from m3dt.version import version_of

# Settings by which experiments differ, few enough for the HParams page.
_HYPERPARAMETERS = (
    "evaluation.episodes", "evaluation.seed", "method", "suite", "seed", "model.n_embd",
    "model.n_layer", "model.context_length",
    "moe.num_experts", "moe.top_k", "grouping.method", "loader.batch_size", "loader.sampling",
    "stage1.max_steps", "stage1.learning_rate", "stage2.max_steps", "stage3.max_steps",
    "baseline.max_steps",
)  # fmt: skip


@dataclass(frozen=True)
class ModelScore:
    """A model's name, its result, and whether the result was stored already."""

    name: str
    result: RunResult
    stored: bool


def score_models(
    config: Config, models: Sequence[RunModel], console: Console, folder: Path | None = None
) -> list[ModelScore]:
    """Return the scores of models, evaluating those that have no stored result.

    A stored result counts if it is of the same weights, tasks, settings and simulators; it may be
    in the folder of results, in the run's, or in that of the run `reuse`.

    Args:
        config: The experiment.
        models: Its models.
        console: Receives progress.
        folder: Where results and TensorBoard pages go; by default the run's folder.

    Raises:
        RunError: Environments failed twice, or a value was not finite.
    """
    folder = folder or Path(config.run)
    stored = {model.name: _stored_result(config, model, folder) for model in models}
    results = {name: result for name, result in stored.items() if result is not None}
    missing = {model.name: model for model in models if model.name not in results}
    if missing:
        with WorkerPool(num_workers(config.evaluation.workers)) as pool:
            for name, model in missing.items():
                results[name] = _evaluate(config, model, pool, console, folder)
    write_card(folder)
    return [ModelScore(m.name, results[m.name], m.name not in missing) for m in models]


def film_model(config: Config, model: RunModel, task: str, folder: Path | None = None) -> Path:
    """Film an episode of a model; return the path of the GIF, which TensorBoard shows too.

    Both go into a folder, by default the run's.

    Raises:
        UserError: Rendering is off, or the task is unknown.
    """
    frames = film(model.policy, get_task(task).name, config.evaluation.seed)
    gif = animation(frames)
    folder = folder or Path(config.run)
    file = evaluation_file(folder, model.name, _key(config, model))
    path = file.with_name(f"{file.stem}-{file_stem(task)}.gif")
    with atomic_path(path) as temporary:
        temporary.write_bytes(gif)
    write_video(folder, file.stem, task, model.info["step"], gif, frames.shape[1:3])
    return path


def _evaluate(
    config: Config, model: RunModel, pool: WorkerPool, console: Console, folder: Path
) -> RunResult:
    """Evaluate a model and store its result."""
    key = _key(config, model)
    file = evaluation_file(folder, model.name, key)
    journal = Journal(file.with_suffix(".episodes.jsonl"), key)
    tasks = tasks_of(config)
    scores = evaluate_policy(model.policy, tasks, config.evaluation, console, pool, journal)
    result: RunResult = {"run": config.run, **model.info, **scores}
    Evaluation.now(model.name, key, result).write(folder)
    journal.delete()
    settings = {key: attrgetter(key)(config) for key in _HYPERPARAMETERS}
    settings["number of tasks"] = len(tasks)
    write_scores(folder, file.stem, model.info["step"], result)
    write_hyperparameters(folder, file.stem, model.name, settings, result)
    return result


def _stored_result(config: Config, model: RunModel, folder: Path) -> RunResult | None:
    """Return a model's stored result, copied into the folder if it was in the run or `reuse`."""
    key = _key(config, model)
    for place in filter(None, (str(folder), config.run, config.reuse)):
        found = read_evaluation(evaluation_file(Path(place), model.name, key))
        if found is None or found.key != key:
            continue
        result: Any = {**found.result, "run": config.run}  # the run may have moved since
        if Path(place) != folder:
            replace(found, result=result).write(folder)
        return cast(RunResult, result)
    return None


def _key(config: Config, model: RunModel) -> str:
    """Return the key of everything that a model's scores depend on."""
    settings: dict[str, Any] = asdict(config.evaluation)
    # The first changes no score, and the model's name states the others.
    for setting in ("workers", "gates", "experts", "target_scale"):
        del settings[setting]
    settings["routing"] = model.name.partition("@")[2]
    if settings["prompts"] and isinstance(model.policy, AgentPolicy):
        described = model.policy.agent.described
        settings["prompts"] = {task.spec.name: task.fingerprint() for task in described}
    tasks = list(tasks_of(config))
    own = own_identities(model.policy.spec(task) for task in tasks)
    versions = {name: version_of(name) for name in SIMULATORS}
    return fingerprint([settings, tasks, model.info, versions, *([own] if own else [])])
