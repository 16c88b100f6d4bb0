"""Evaluate a policy or an agent: roll it out and summarise its scores."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from rich.console import Console

from m3dt.config import EvaluationConfig
from m3dt.evaluation.agent import Agent
from m3dt.evaluation.policies import AgentPolicy, Policy
from m3dt.evaluation.rules import rules_of
from m3dt.evaluation.scheduler import RolloutScheduler
from m3dt.evaluation.scores import Episode, EvaluationResult, PolicyResult, summarize
from m3dt.evaluation.sessions import EpisodeGroup
from m3dt.tasks import SIMULATORS
from m3dt.tasks.workers import WorkerPool
from m3dt.utils.console import make_console, progress_bar
from m3dt.utils.errors import UserError
from m3dt.utils.files import fingerprint, parse_json, reading
from m3dt.utils.processes import num_workers
from m3dt.utils.products import warn_of_other_products
from m3dt.version import version_of


def evaluate(
    agent: Agent,
    tasks: str | Sequence[str] | None = None,
    episodes: int | None = None,
    config: EvaluationConfig | None = None,
) -> EvaluationResult:
    """Evaluate an agent in the simulators.

    Args:
        agent: From `m3dt.load`.
        tasks: A name, names with commas between them, or a sequence of names; by default all that
            the agent was trained on.
        episodes: Episodes per task; by default those of `config`, 10.
        config: Further settings.

    Raises:
        UserError: It is no agent, or was not trained on a task; a task is named twice, or none is;
            an argument is of another type or out of range.
        RunError: Environments failed twice, or a value is not finite.
    """
    if not isinstance(agent, Agent):
        raise UserError(f"{agent!r} is no agent. Load one first: m3dt.load(FOLDER).")
    config = rules_of(config, episodes)
    names = _names(agent.context.tasks if tasks is None else tasks)
    for name in names:
        agent.task(name)  # refuses an unknown task before any simulator starts
    policy = AgentPolicy(agent, config, agent.entry.kind, tasks=names)
    result = evaluate_policy(policy, names, config, make_console())
    return {
        "run": agent.run,
        "method": agent.method,
        "num_parameters": agent.model.num_parameters(),
        **result,
    }


def evaluate_policy(
    policy: Policy[Any],
    tasks: Sequence[str],
    config: EvaluationConfig,
    console: Console,
    pool: WorkerPool | None = None,
    journal: Journal | None = None,
) -> PolicyResult:
    """Roll a policy out on tasks and summarise its scores.

    Without a pool, new workers are started, as many as configured. Finished episodes are recorded
    in the journal, and those it holds already are not played.

    Raises:
        RunError: Environments failed twice, or a value is not finite.
    """
    warn_of_other_products()
    if pool is None:
        with WorkerPool(num_workers(config.workers)) as own:
            return evaluate_policy(policy, tasks, config, console, own, journal)
    groups = make_groups(_by_batch_key(policy, tasks), config.episodes, config.tile)
    recorded = journal.episodes if journal else {}
    old = [episode for group in groups for episode in recorded.get(group, [])]
    started = time.monotonic()
    with progress_bar(console, "episodes") as bar:
        total = len(tasks) * config.episodes
        row = bar.add_task(f"evaluating {policy.name}", total=total, completed=len(old))
        new: list[Episode] = []
        missing = [group for group in groups if group not in recorded]
        for group, episodes in RolloutScheduler(pool, policy, missing, config.seed).run():
            if journal:
                journal.add(group, episodes)
            new += episodes
            bar.advance(row, len(episodes))
    seconds = max(time.monotonic() - started, 1e-9)
    positions = {task: i for i, task in enumerate(tasks)}
    in_order = sorted(old + new, key=lambda e: (positions[e.task], e.number))
    return {
        **summarize(in_order),
        "episodes": config.episodes,
        "env_steps_per_second": sum(episode.env_steps for episode in new) / seconds,
        "flops_per_action": policy.flops(tasks),
        "ms_per_action": policy.stopwatch.milliseconds,
        "seed": config.seed,
        "versions": {name: version_of(name) for name in ("m3dt", "torch", *SIMULATORS)},
    }


def _names(tasks: str | Sequence[str]) -> list[str]:
    """Return the names that a person wrote, without spaces around them."""
    if isinstance(tasks, str):
        parts = tasks.split(",")
    else:
        parts = list(tasks) if isinstance(tasks, Iterable) else []
    names = [name.strip() if isinstance(name, str) else name for name in parts]
    if not all(isinstance(name, str) and name for name in names) or not names:
        raise UserError(f"tasks={tasks!r:.80}: name one task or more, such as 'reach-v2,cup-catch'")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"tasks={tasks!r:.80}: {twice} is listed more than once")
    return names


def make_groups(tasks: Sequence[str], episodes: int, size: int) -> list[EpisodeGroup]:
    """Cut each task's episodes into groups of at most `size`."""
    starts = range(0, episodes, size)
    return [
        EpisodeGroup(t, tuple(range(s, min(s + size, episodes)))) for t in tasks for s in starts
    ]


def _by_batch_key(policy: Policy[Any], tasks: Sequence[str]) -> list[str]:
    """Return the tasks so that those with the same batch key are neighbours."""
    by_key: dict[Hashable, list[str]] = {}
    for task in tasks:
        by_key.setdefault(policy.batch_key(task), []).append(task)
    return [task for same in by_key.values() for task in same]


class Journal:
    """A file with one line per finished group: a key, the group's episodes, and a digest of both.

    The key covers everything that the episodes depend on. Lines with another key are ignored, so
    that two evaluations may write to one file. So are lines that were changed.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self.episodes: dict[EpisodeGroup, list[Episode]] = {}  # the finished ones
        if path.is_file():
            with reading(path):
                self._read(path.read_text(errors="replace").splitlines())

    def _read(self, lines: Sequence[str]) -> None:
        for line in lines:
            try:
                key, rows, digest = parse_json(line, finite=True)
                episodes = [Episode(*values) for values in rows]
                group = EpisodeGroup(episodes[0].task, tuple(e.number for e in episodes))
            except (ValueError, TypeError, IndexError):
                continue  # a line cut short by a kill
            if key == self.key and digest == fingerprint([key, rows]):
                self.episodes[group] = episodes

    def add(self, group: EpisodeGroup, episodes: list[Episode]) -> None:
        """Record the episodes of a group."""
        self.episodes[group] = episodes
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = [self.key, [astuple(episode) for episode in episodes]]
        line = json.dumps([*content, fingerprint(content)])
        with self.path.open("a") as file:
            file.write(f"\n{line}\n")  # the last line may lack its end after a kill
            file.flush()
            os.fsync(file.fileno())

    def delete(self) -> None:
        """Remove the file, once its episodes have become a result."""
        self.path.unlink(missing_ok=True)
