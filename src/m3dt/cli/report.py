"""What a person sees of a run: score tables and the list of its models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from m3dt.config import BASELINES, Config
from m3dt.evaluation import (
    AgentPolicy,
    OraclePolicy,
    Policy,
    RandomPolicy,
    animation,
    evaluate_policy,
    film,
)
from m3dt.evaluation.agent import load
from m3dt.evaluation.journal import Journal
from m3dt.evaluation.scoring import method_name
from m3dt.plots.tensorboard import write_hyperparameters, write_scores, write_video
from m3dt.runs import MAIN, inference_device
from m3dt.runs.layout import check_run_folder
from m3dt.runs.registry import Registry
from m3dt.tasks import SIMULATORS, get_task, tasks_of
from m3dt.tasks.workers import WorkerPool
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, fingerprint, write_json
from m3dt.utils.folders import check_writable
from m3dt.utils.processes import num_workers


def evaluate_run(
    config: Config,
    names: list[str],
    json_file: Path | None,
    console: Console,
    films: Sequence[str] = (),
) -> None:
    """Evaluate models of a run, print a table, and write the last one's result as JSON.

    A result for the same weights and settings that stands in the run's folder, or in that of the
    run `reuse`, is not repeated.

    Args:
        config: The experiment.
        names: `random`, `backbone`, `router`, `oracle`, `expert:K` or `baseline:METHOD`; empty for
            the configuration's method, as far as it is trained.
        json_file: Where the last model's result goes.
        console: Where the table goes.
        films: Tasks of which the last model is filmed.

    Raises:
        UserError: The run lacks a model, a name is none, or there is no rendering for films.
    """
    check_run_folder(Path(config.run))
    for written in filter(None, (Path(config.run) / "evaluation", json_file)):
        check_writable(written)
    tasks = tasks_of(config)
    models = [_model(config, name) for name in names or [""]]
    results = []
    reused = 0
    pool: WorkerPool | None = None
    try:
        for policy, described in models:
            file = Path(config.run) / "evaluation" / f"{policy.name.replace(':', '-')}.json"
            key = _key(config, tasks, described)
            result = _stored(file, key)
            if result is None and config.reuse:
                taken = _stored(Path(config.reuse) / "evaluation" / file.name, key)
                if taken is not None:
                    result = {**taken, "run": config.run}
                    write_json(file, {"key": key, "result": result})
            if result is None:
                pool = pool or WorkerPool(num_workers(config.evaluation.workers))
                journal = Journal(file.with_suffix(f".{key[:8]}.episodes.jsonl"), key)
                rules = config.evaluation
                measured = evaluate_policy(policy, tasks, rules, console, pool, journal)
                result = {"run": config.run, **described, **measured}
                write_json(file, {"key": key, "result": result})
                journal.delete()
                run = Path(config.run)
                write_scores(run, policy.name, described["step"], result)
                write_hyperparameters(run, policy.name, _settings(config), result)
            else:
                reused += 1
            results.append((policy.name, result))
    finally:
        if pool is not None:
            pool.__exit__(None, None, None)
    if json_file is not None:
        write_json(json_file, results[-1][1])
    console.print(score_table(results))
    if reused == len(results):
        console.print("These models were evaluated before. Nothing to do.")
    policy, described = models[-1]
    for task in films:
        frames = film(policy, get_task(task).name, config.evaluation.seed)
        path = Path(config.run) / "evaluation" / f"{policy.name.replace(':', '-')}-{task}.gif"
        gif = animation(frames)
        with atomic_path(path) as temporary:
            temporary.write_bytes(gif)
        write_video(Path(config.run), policy.name, task, described["step"], gif, frames.shape[1:3])
        console.print(f"filmed {path}")


def score_table(results: list[tuple[str, dict[str, Any]]]) -> Table:
    """Lay out scores: a row a task, a column a model, each with its 95 % interval."""
    episodes = results[0][1]["episodes"]
    table = Table(
        title=f"normalized score [95 % interval], {episodes} episodes a task", title_justify="left"
    )
    table.add_column("task", no_wrap=True)
    for name, result in results:
        title = name if name == "random" else f"{result['method']}\n({name})"
        table.add_column(title, justify="right", no_wrap=True)
    for task in results[0][1]["tasks"]:
        cells = [_cell(result["tasks"][task]) for _, result in results]
        table.add_row(task, *cells)
    table.add_section()
    domains = results[0][1]["domains"]
    if len(domains) > 1:
        for domain in domains:
            table.add_row(domain, *(f"{r['domains'][domain]:.1f}" for _, r in results))
    table.add_row("mean over tasks", *(_cell(result) for _, result in results), style="bold")
    sizes = [f"{r['num_parameters']:,}" if r["num_parameters"] else "" for _, r in results]
    table.add_row("parameters", *sizes)
    return table


def _cell(summary: dict[str, Any]) -> str:
    low, high = summary["ci95"]
    return f"{summary['score']:5.1f} [{low:3.0f}, {high:3.0f}]"


def _model(config: Config, name: str) -> tuple[Policy[Any], dict[str, Any]]:
    """Return a policy and what identifies it."""
    if name == "random":
        return RandomPolicy(), {"method": "random", "num_parameters": 0, "weights": "", "step": 0}
    device, rules = inference_device(config), config.evaluation
    if name == "oracle":
        return _oracle(config, device)
    if not name and config.method in BASELINES:
        name = f"baseline:{config.method}"
    kind, _, number = name.partition(":")
    if kind not in ("", "backbone", "router", "expert", "baseline"):
        choices = "random, backbone, router, oracle, expert:K, baseline:METHOD"
        raise UserError(f"--models {name}: choose among {choices}")
    agent = load(config.run, kind or None, number or None, device=device)
    label = agent.entry.kind + (f":{agent.entry.name}" if agent.entry.name != MAIN else "")
    described = {
        "method": method_name(agent),
        "num_parameters": agent.model.num_parameters(),
        "weights": agent.entry.hash,
        "step": agent.entry.step,
    }
    return AgentPolicy(agent, rules, label), described


def _oracle(config: Config, device: str) -> tuple[Policy[Any], dict[str, Any]]:
    entries = [entry for entry in Registry(config.run).entries() if entry.kind == "expert"]
    if not entries:
        raise UserError(f"{config.run}: has no experts for an oracle. Run `m3dt stage2` first.")
    experts = [load(config.run, "expert", entry.name, device) for entry in entries]
    policy = OraclePolicy(experts, config.evaluation)
    for task in tasks_of(config):
        policy.agent_for(task)  # refuses before any simulator starts
    described = {
        "method": "oracle",
        "num_parameters": experts[0].model.num_parameters(),
        "weights": [expert.entry.hash for expert in experts],
        "step": experts[0].entry.step,
    }
    return policy, described


def _key(config: Config, tasks: tuple[str, ...], described: dict[str, Any]) -> str:
    settings = asdict(config.evaluation)
    del settings["workers"]  # changes no score
    versions = {name: metadata.version(name) for name in SIMULATORS}
    return fingerprint([settings, list(tasks), described, versions])


_TELLING = (
    "method", "suite", "seed", "model.n_embd", "model.n_layer", "model.context_length",
    "moe.num_experts", "moe.top_k", "grouping.method", "loader.batch_size", "loader.sampling",
    "stage1.max_steps", "stage1.learning_rate", "stage2.max_steps", "stage3.max_steps",
    "baseline.max_steps",
)  # fmt: skip


def _settings(config: Config) -> dict[str, Any]:
    """Return the settings that tell experiments apart, few enough for a table."""
    return {key: attrgetter(key)(config) for key in _TELLING}


def _stored(file: Path, key: str) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        stored = json.loads(file.read_text())
        return stored["result"] if stored["key"] == key else None
    except (json.JSONDecodeError, KeyError, TypeError):
        return None


def show_registry(run: Path, json_file: Path | None, console: Console) -> None:
    """List the models of a run with their lineage.

    Raises:
        UserError: The folder holds no registry, or an entry is damaged.
    """
    registry = Registry(run)
    entries = registry.entries()
    if not entries:
        raise UserError(f"{run}: holds no registered model")
    if json_file is not None:
        write_json(json_file, {"run": str(run), "entries": [asdict(e) for e in entries]})
    table = Table(title=f"models of {run}", title_justify="left")
    for column in ("model", "step", "tasks", "hash", "parents"):
        table.add_column(column)
    for entry in entries:
        parents = [f"{key}@{digest[:8]}" for key, digest in entry.parents.items()]
        shown = ", ".join(parents[:3]) + (f" and {len(parents) - 3} more" if parents[3:] else "")
        table.add_row(entry.key, str(entry.step), str(len(entry.tasks)), entry.hash[:8], shown)
    console.print(table)
