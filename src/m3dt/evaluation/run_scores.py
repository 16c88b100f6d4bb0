"""Find and evaluate the models of a run: results are stored, reused, and shown in TensorBoard."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from rich.console import Console

from m3dt.config import BASELINES, Config
from m3dt.evaluation.agent import ACTING_KINDS, load
from m3dt.evaluation.evaluator import Journal, evaluate_policy
from m3dt.evaluation.gates import way_of
from m3dt.evaluation.oracle import RULES, ExpertsPolicy
from m3dt.evaluation.policies import UNTRAINED, AgentPolicy, Policy
from m3dt.evaluation.scores import ModelInfo, RunResult
from m3dt.evaluation.video import animation, film
from m3dt.plots.tensorboard import write_hyperparameters, write_scores, write_video
from m3dt.runs import BY_PROMPT, MAIN, inference_device
from m3dt.tasks import SIMULATORS, get_task, tasks_of
from m3dt.tasks.workers import WorkerPool
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, fingerprint, read_json, write_json
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
class RunModel:
    """A model of a run: the policy that it acts by, and what identifies it in results."""

    policy: Policy[Any]
    info: ModelInfo

    @property
    def name(self) -> str:
        """Name in tables, such as `expert:2`."""
        return self.policy.name

    @property
    def file_name(self) -> str:
        """Name in file names, without suffix."""
        return self.name.replace(":", "-")


def run_model(config: Config, name: str) -> RunModel:
    """Load a model of a run.

    The name is `random`, `nothing` (zero actions), `backbone`, `router`, `expert:K`,
    `baseline:METHOD`, or one of `oracle`, `even` and `random-expert`, rules that choose among the
    experts; or empty for the model of the configured method, as far as it is trained. `router`
    means the router of `moe.router`, `router:main` and `router:prompt` the one by tokens and by
    prompts.

    Raises:
        UserError: The run lacks the model, or the name is unknown.
    """
    if name in UNTRAINED:
        info: ModelInfo = {"method": name, "num_parameters": 0, "weights": "", "step": 0}
        return RunModel(UNTRAINED[name](), info)
    if name in RULES:
        return _experts(config, name)
    if not name and config.method in BASELINES:
        name = f"baseline:{config.method}"
    kind, _, number = name.partition(":")
    if not number and config.moe.router == "prompt" and kind in ("", "router"):
        kind, number = "router", BY_PROMPT
    if kind not in ("", *ACTING_KINDS):
        choices = ", ".join((*UNTRAINED, "backbone, router", *RULES, "expert:K, baseline:METHOD"))
        raise UserError(f"--models {name}: choose among {choices}")
    agent = load(config.run, kind or None, number or None, inference_device(config))
    entry = agent.entry
    label = entry.kind if entry.name == MAIN else f"{entry.kind}:{entry.name}"
    label = _labelled(label, way_of(agent, config.evaluation), config)
    info = {
        "method": agent.method,
        "num_parameters": agent.model.num_parameters(),
        "weights": entry.hash,
        "step": entry.step,
    }
    policy = AgentPolicy(agent, config.evaluation, label, tasks=tasks_of(config))
    return RunModel(policy, info)


def _labelled(name: str, way: str, config: Config) -> str:
    """Add to a name how experts are chosen, and whose prompts the model gets if not its own."""
    rules = config.evaluation
    words = [way] if way else []
    words += [f"prompts-{rules.prompt_return:g}"] if rules.prompts else []
    return "@".join([name, "-".join(words)]) if words else name


def _experts(config: Config, rule: str) -> RunModel:
    device, tasks = inference_device(config), tasks_of(config)
    policy = ExpertsPolicy(config.run, config.evaluation, device, rule, tasks)
    for task in tasks:
        policy.check(task)  # refuses a task without expert before any simulator starts
    policy.name = _labelled(rule, "", config)
    info: ModelInfo = {
        "method": rule,
        "num_parameters": policy.num_parameters(),
        "weights": [expert.hash for expert in policy.experts],
        "step": policy.experts[0].step,
    }
    return RunModel(policy, info)


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
    path = _file(folder, model).with_name(f"{model.file_name}-{task}.gif")
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
    write_json(file, {"key": key, "result": result})
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
                write_json(file, {"key": key, "result": result})
    return result


def _read(file: Path, key: str) -> RunResult | None:
    """Return the result in a file, if there is one with this key."""
    if not file.is_file():
        return None
    try:
        stored = read_json(file, finite=True)
        return stored["result"] if stored["key"] == key else None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError):
        return None


def _key(config: Config, model: RunModel) -> str:
    """Return the key of everything that a model's scores depend on."""
    settings: dict[str, Any] = asdict(config.evaluation)
    for setting in ("workers", "gates", "experts"):  # the first changes no score
        del settings[setting]
    settings["routing"] = model.name.partition("@")[2]
    if settings["prompts"] and isinstance(model.policy, AgentPolicy):
        settings["prompts"] = model.policy.agent.context.fingerprint()
    versions = {name: version_of(name) for name in SIMULATORS}
    return fingerprint([settings, list(tasks_of(config)), model.info, versions])


def _file(folder: Path, model: RunModel) -> Path:
    """Return the file of a model's result in a folder of results, such as a run's."""
    return folder / "evaluation" / f"{model.file_name}.json"
