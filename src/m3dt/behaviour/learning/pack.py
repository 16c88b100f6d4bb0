"""From the snapshots of a training to a ladder of policies.

The best snapshot is chosen in the real environment; below it, snapshots whose returns divide the
range from random to best evenly.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3dt.behaviour.behaviours import LearnedPolicy
from m3dt.behaviour.ladder import Rung
from m3dt.behaviour.library import BEST, policy_name, read_record, write_record
from m3dt.behaviour.network import Network, load_networks, save_networks
from m3dt.behaviour.player import play
from m3dt.tasks import TASKS, TaskSpec, make_env

PROGRESS, SETTINGS, SNAPSHOTS = "progress.csv", "settings.json", "snapshots"
_NUM_BELOW = 4  # rungs below the best
_NUM_CANDIDATES = 2  # snapshots that are measured in the real environment
_QUARTILES = (0, 0.25, 0.5, 0.75, 1)
_EPISODES = 32
_GOALS = 8  # of a locomotion domain, over which its policy is measured


@dataclass(frozen=True)
class Snapshot:
    """A policy in the course of its training: steps so far, seconds, and simulated return."""

    number: int
    steps: int
    seconds: int
    simulated_return: float


def read_progress(folder: Path) -> list[Snapshot]:
    """Return the snapshots of a training folder, the last one of each number."""
    with (folder / PROGRESS).open() as file:
        rows = [Snapshot(int(n), int(s), int(t), float(r)) for n, s, t, r in csv.reader(file)]
    return list({row.number: row for row in rows}.values())


def best_return(folder: Path) -> float:
    """Return the highest simulated return of a training so far, minus infinity before any."""
    if not (folder / PROGRESS).exists():
        return -np.inf
    return max(s.simulated_return for s in read_progress(folder))


def load_snapshot(folder: Path, number: int) -> Network:
    """Read one snapshot's network."""
    return load_networks(folder / SNAPSHOTS / f"{number:04d}.safetensors")["policy"]


def measured_returns(spec: TaskSpec, network: Network) -> list[float]:
    """Play a policy without noise in the real environment; locomotion over several goals."""
    specs = [spec]
    if spec.goal is not None:
        family = [s for s in TASKS.values() if s.domain == spec.domain]
        specs = family[:: len(family) // _GOALS]
    returns = []
    for one in specs:
        env, policy = make_env(one.name), LearnedPolicy(one, network)
        rng = np.random.default_rng((11, *one.name.encode()))
        for _ in range(_EPISODES // len(specs)):
            returns.append(play(env, policy, Rung(BEST), rng).episode_return)
    return returns


def choose_rungs(snapshots: list[Snapshot], best: Snapshot) -> list[Snapshot]:
    """Choose snapshots before the best whose returns are closest to even steps up to its own."""
    earlier = [s for s in snapshots if s.number < best.number]
    low = min((s.simulated_return for s in earlier[:1]), default=best.simulated_return)
    chosen: dict[int, Snapshot] = {}
    for k in range(1, _NUM_BELOW + 1):
        wanted = low + (best.simulated_return - low) * k / (_NUM_BELOW + 1)
        if earlier:
            nearest = min(earlier, key=lambda s: abs(s.simulated_return - wanted))
            chosen[nearest.number] = nearest
    return sorted(chosen.values(), key=lambda s: s.simulated_return)


def pack(spec: TaskSpec, folder: Path, library: Path) -> dict[str, Any]:
    """Write a task's ladder to a library folder and record how it came to be.

    Args:
        spec: The task that was trained.
        folder: Its training folder.
        library: Where `<policy>.safetensors` and the record go.

    Returns:
        The record: command, recipe, seed, seconds, each rung's steps and return in simulation, and
        the best one's return in the real environment.
    """
    settings = json.loads((folder / SETTINGS).read_text())
    snapshots = read_progress(folder)
    candidates = sorted(snapshots, key=lambda s: -s.simulated_return)[:_NUM_CANDIDATES]
    measured = {
        s.number: measured_returns(spec, load_snapshot(folder, s.number)) for s in candidates
    }
    best = max(candidates, key=lambda s: float(np.mean(measured[s.number])))
    rungs = {str(i): s for i, s in enumerate(choose_rungs(snapshots, best), 1)} | {BEST: best}
    save_networks(
        library / f"{policy_name(spec)}.safetensors",
        {name: load_snapshot(folder, s.number) for name, s in rungs.items()},
    )
    record = {
        "command": f"m3dt behaviour train {policy_name(spec)} --seed {settings['seed']}",
        **settings,
        "seconds": snapshots[-1].seconds,
        "rungs": {
            name: {"steps": s.steps, "simulated_return": round(s.simulated_return, 1)}
            for name, s in rungs.items()
        },
        "return_mean": round(float(np.mean(measured[best.number])), 1),
        "return_std": round(float(np.std(measured[best.number])), 1),
        "return_quartiles": np.quantile(measured[best.number], _QUARTILES).round(1).tolist(),
    }
    write_record(library, read_record(library) | {policy_name(spec): record})
    return record
