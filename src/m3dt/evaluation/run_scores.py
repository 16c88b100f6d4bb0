"""Evaluate the models of a run: results are stored, reused, and shown in TensorBoard."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from rich.console import Console

from m3dt.config import Config
from m3dt.evaluation.evaluator import Journal, evaluate_policy
from m3dt.evaluation.policies import AgentPolicy
from m3dt.evaluation.run_models import RunModel
from m3dt.evaluation.scores import RunResult
from m3dt.evaluation.video import animation, film
from m3dt.plots.tensorboard import write_hyperparameters, write_scores, write_video
from m3dt.runs.model_card import write_card
from m3dt.tasks import SIMULATORS, get_task, tasks_of
from m3dt.tasks.registration import own_identities
from m3dt.tasks.workers import WorkerPool
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, fingerprint, read_json, write_json
from m3dt.utils.paths import file_stem
from m3dt.utils.processes import num_workers
from m3dt.version import version_of

# Settings by which experiments differ, few enough for the HParams page.
_HYPERPARAMETERS = (
    "method", "suite", "seed", "model.n_embd", "model.n_layer", "model.context_length",
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
    path = _file(folder, model).with_name(f"{model.file_name}-{file_stem(task)}.gif")
    with atomic_path(path) as temporary:
        temporary.write_bytes(gif)
    write_video(folder, model.name, task, model.info["step"], gif, frames.shape[1:3])
    return path


def _evaluate(
    config: Config, model: RunModel, pool: WorkerPool, console: Console, folder: Path
) -> RunResult:
    """Evaluate a model and store its result."""
    file, key = _file(folder, model), _key(config, model)
    journal = Journal(file.with_suffix(f".{key[:8]}.episodes.jsonl"), key)
    tasks = tasks_of(config)
    scores = evaluate_policy(model.policy, tasks, config.evaluation, console, pool, journal)
    result: RunResult = {"run": config.run, **model.info, **scores}
    _write(file, key, result)
    journal.delete()
    settings = {key: attrgetter(key)(config) for key in _HYPERPARAMETERS}
    write_scores(folder, model.name, model.info["step"], result)
    write_hyperparameters(folder, model.name, settings, result)
    return result


def _stored_result(config: Config, model: RunModel, folder: Path) -> RunResult | None:
    """Return a model's stored result, copied into the folder if it was elsewhere."""
    file, key = _file(folder, model), _key(config, model)
    result = _read(file, key)
    for other in (config.run, config.reuse):
        if result is None and other:
            result = _read(_file(Path(other), model), key)
            if result is not None:
                result["run"] = config.run
                _write(file, key, result)
    return result


def _write(file: Path, key: str, result: RunResult) -> None:
    """Store a result with its key, and with a digest from which a later change is recognised."""
    write_json(file, {"key": key, "result": result, "digest": fingerprint([key, result])})


def _read(file: Path, key: str) -> RunResult | None:
    """Return the result in a file, if there is one with this key that nobody changed."""
    if not file.is_file():
        return None
    try:
        stored = read_json(file, finite=True)
        result: RunResult = stored["result"]
        return result if stored["digest"] == fingerprint([key, result]) else None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError):
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


def _file(folder: Path, model: RunModel) -> Path:
    """Return the file of a model's result in a folder of results, such as a run's."""
    return folder / "evaluation" / f"{model.file_name}.json"
