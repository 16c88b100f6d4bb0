"""Evaluate a policy: tiles of episodes, stepped by workers while the model serves others.

Letters: R episodes of a tile, S state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np
from rich.console import Console

from m3dt.agent import Agent
from m3dt.config import EvaluationConfig, MoEConfig
from m3dt.console import make_console, progress_bar
from m3dt.evaluation.policies import AgentPolicy, Policy, Session, Tile
from m3dt.evaluation.scores import Episode, summarize
from m3dt.evaluation.workers import Transition, WorkerPool
from m3dt.processes import single_threaded
from m3dt.tasks import SIMULATORS

# Tiles of one worker: while the model serves some, the worker steps another.
_TILES_PER_WORKER = 3


@dataclass
class _Running:
    tile: Tile
    session: Session
    returns: np.ndarray  # (R,)
    successes: np.ndarray  # (R,) of bool
    steps: np.ndarray  # (R,)


def make_tiles(tasks: Sequence[str], episodes: int, size: int) -> list[Tile]:
    """Cut each task's episodes into tiles of `size`, the last one filled up.

    The surplus episodes of a last tile are played but not counted: every forward pass of a
    task has the same shape, however many episodes are asked for.
    """
    starts = range(0, episodes, size)
    return [Tile(task, tuple(range(s, s + size))) for task in tasks for s in starts]


def play(
    pool: WorkerPool, policy: Policy, tiles: Sequence[Tile], seed: int
) -> Iterator[list[Episode]]:
    """Play tiles and yield each one's episodes as it ends."""
    waiting = list(enumerate(tiles))[::-1]
    running: dict[int, _Running] = {}

    def start(worker: int) -> None:
        if waiting:
            number, tile = waiting.pop()
            R = len(tile.episodes)
            zeros = (np.zeros(R), np.zeros(R, bool), np.zeros(R, int))
            running[number] = _Running(tile, policy.begin(tile, seed), *zeros)
            pool.reset(worker, number, tile.task, tile.seeds(seed))

    def serve(worker: int, answer: Transition) -> None:
        actions = running[answer.tile].session.act(answer.observations, answer.rewards)
        pool.step(worker, answer.tile, actions)

    with single_threaded(), ThreadPoolExecutor(policy.num_threads) as threads:
        serving: list[Future[None]] = []
        for _ in range(_TILES_PER_WORKER):
            for worker in range(len(pool.connections)):
                start(worker)
        while running:
            # The pause bounds how late an exception of the policy is seen.
            for worker, answer in pool.receive(timeout=1.0):
                now = running[answer.tile]
                _account(now, answer)
                if answer.done:
                    del running[answer.tile]
                    start(worker)
                    yield _episodes(now)
                else:
                    serving.append(threads.submit(serve, worker, answer))
            for future in [f for f in serving if f.done()]:
                serving.remove(future)
                future.result()  # raises what the policy raised


def _account(now: _Running, answer: Transition) -> None:
    if answer.rewards is not None:
        assert answer.successes is not None and answer.played is not None
        now.returns += answer.rewards
        now.successes |= answer.successes
        now.steps += answer.played


def _episodes(ended: _Running) -> list[Episode]:
    columns = (ended.tile.episodes, ended.returns, ended.successes, ended.steps)
    return [
        Episode(ended.tile.task, number, float(total), bool(success), int(steps))
        for number, total, success, steps in zip(*columns, strict=True)
    ]


def evaluate_policy(
    policy: Policy,
    tasks: Sequence[str],
    config: EvaluationConfig,
    console: Console,
    pool: WorkerPool | None = None,
) -> dict[str, Any]:
    """Roll a policy out on tasks and summarise its scores.

    Returns:
        Score, interval, domains, tasks, episodes, seed, speed and versions.
    """
    if pool is None:
        with WorkerPool(config.workers or os.cpu_count() or 1) as own:
            return evaluate_policy(policy, tasks, config, console, own)
    tiles = make_tiles(tasks, config.episodes, config.tile)
    episodes: list[Episode] = []
    started = time.monotonic()
    with progress_bar(console, "episodes") as bar:
        row = bar.add_task(f"evaluating {policy.name}", total=len(tiles) * config.tile)
        for ended in play(pool, policy, tiles, config.seed):
            episodes += ended
            bar.advance(row, len(ended))
    seconds = time.monotonic() - started
    counted = [episode for episode in episodes if episode.number < config.episodes]
    counted.sort(key=lambda episode: (list(tasks).index(episode.task), episode.number))
    return {
        **summarize(counted),
        "episodes": config.episodes,
        "env_steps_per_second": sum(episode.env_steps for episode in episodes) / seconds,
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
    policy = AgentPolicy(agent, config.target, agent.entry.kind, config.history)
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
