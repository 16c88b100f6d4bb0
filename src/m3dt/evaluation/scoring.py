"""Evaluate a policy or an agent: scores and their intervals from rollouts."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

from rich.console import Console

from m3dt.config import EvaluationConfig, MoEConfig
from m3dt.evaluation.agent import Agent
from m3dt.evaluation.journal import Journal
from m3dt.evaluation.policies import AgentPolicy, Policy
from m3dt.evaluation.scheduler import play
from m3dt.evaluation.scores import summarize
from m3dt.evaluation.sessions import Tile
from m3dt.tasks import SIMULATORS
from m3dt.tasks.workers import WorkerPool
from m3dt.utils.console import make_console, progress_bar


def make_tiles(tasks: Sequence[str], episodes: int, size: int) -> list[Tile]:
    """Cut each task's episodes into tiles of at most `size`."""
    starts = range(0, episodes, size)
    return [Tile(t, tuple(range(s, min(s + size, episodes)))) for t in tasks for s in starts]


def evaluate_policy(
    policy: Policy[Any],
    tasks: Sequence[str],
    config: EvaluationConfig,
    console: Console,
    pool: WorkerPool | None = None,
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Roll a policy out on tasks and summarise its scores.

    Args:
        policy: What acts.
        tasks: Names.
        config: Episodes, seed and so on.
        console: Where progress is shown.
        pool: Workers; by default as many as the configuration says, for this evaluation alone.
        journal: Where episodes are kept as they end, and found if they are there already.

    Returns:
        Score, interval, domains, tasks, episodes, seed, speed and versions.

    Raises:
        RunError: Environments failed twice.
    """
    if pool is None:
        with WorkerPool(config.workers or os.cpu_count() or 1) as own:
            return evaluate_policy(policy, tasks, config, console, own, journal)
    companies = list(dict.fromkeys(map(policy.company, tasks)))
    together = sorted(tasks, key=lambda task: companies.index(policy.company(task)))
    tiles = make_tiles(together, config.episodes, config.tile)
    found = journal.episodes if journal else {}
    episodes = [episode for tile in tiles for episode in found.get(tile, [])]
    missing = [tile for tile in tiles if tile not in found]
    played = 0
    started = time.monotonic()
    with progress_bar(console, "episodes") as bar:
        total = len(tasks) * config.episodes
        row = bar.add_task(f"evaluating {policy.name}", total=total, completed=len(episodes))
        for tile, ended in play(pool, policy, missing, config.seed):
            if journal:
                journal.add(tile, ended)
            episodes += ended
            played += sum(episode.env_steps for episode in ended)
            bar.advance(row, len(ended))
    seconds = time.monotonic() - started
    episodes.sort(key=lambda episode: (list(tasks).index(episode.task), episode.number))
    return {
        **summarize(episodes),
        "episodes": config.episodes,
        "env_steps_per_second": played / max(seconds, 1e-9),
        "seed": config.seed,
        "versions": {n: metadata.version(n) for n in ("m3dt", "torch", *SIMULATORS)},
    }


def evaluate(
    agent: Agent,
    tasks: Sequence[str] | None = None,
    episodes: int = 10,
    config: EvaluationConfig | None = None,
) -> dict[str, Any]:
    """Evaluate an agent in the simulators.

    Args:
        agent: From `m3dt.load`.
        tasks: Names; by default all that the agent was trained on.
        episodes: Episodes per task.
        config: Further settings.

    Returns:
        The dictionary that `m3dt evaluate --json` writes.
    """
    config = replace(config or EvaluationConfig(), episodes=episodes)
    names = list(tasks or agent.context.tasks)
    for name in names:
        agent.context.index(name)  # refuses unknown ones before any simulator starts
    policy = AgentPolicy(agent, config, agent.entry.kind)
    result = evaluate_policy(policy, names, config, make_console())
    return {
        "run": agent.run,
        "method": method_name(agent),
        "num_parameters": agent.model.num_parameters(),
        **result,
    }


_TITLES = {
    "promptdt": "PromptDT",
    "mtdt": "MTDT",
    "harmodt": "HarmoDT",
    "m3dt-end-to-end": "M3DT end to end",
}
_VARIANTS = {"unfrozen_experts": ", experts unfrozen", "ungrouped": ", ungrouped"}


def method_name(agent: Agent) -> str:
    """Return the method's name in the paper."""
    entry = agent.entry
    if entry.kind == "baseline":
        return _TITLES[entry.name]
    if entry.kind != "router":
        return {"backbone": "PromptDT", "expert": "PromptDT with one expert"}[entry.kind]
    moe = MoEConfig(**entry.settings["moe"])
    grouping = entry.settings.get("grouping")
    name = "M3DT" + (f"-{grouping['method'].capitalize()}" if grouping else "")
    name += ", big experts" if moe.expert == "trunk" else ""
    name += f", top-{moe.top_k}" if moe.top_k else ""
    return name + _VARIANTS.get(moe.training, "")
