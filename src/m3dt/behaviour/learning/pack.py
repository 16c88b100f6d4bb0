"""Choose the snapshots of a training that form a ladder, and add them to a library.

The best snapshot is chosen by its returns in the real environment. The others are chosen so that
their simulated returns divide the range from random to best evenly.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3dt.behaviour.ladder import Rung
from m3dt.behaviour.library import BEST, PolicyRecord, policy_name, read_record, write_record
from m3dt.behaviour.network import Network, load_networks, save_networks
from m3dt.behaviour.player import play
from m3dt.behaviour.policy import LearnedPolicy
from m3dt.tasks import TASKS, TaskSpec, make_env

PROGRESS, SETTINGS, SNAPSHOTS = "progress.csv", "settings.json", "snapshots"
_NUM_BELOW = 4  # rungs below the best
_NUM_CANDIDATES = 2  # snapshots measured in the real environment
_QUARTILES = (0, 0.25, 0.5, 0.75, 1)
_EPISODES = 32
_NUM_GOALS = 8  # goals over which a locomotion policy is measured


@dataclass(frozen=True)
class Snapshot:
    """A policy during its training, after some steps and seconds."""

    number: int
    steps: int
    seconds: int
    simulated_return: float


def read_progress(folder: Path) -> list[Snapshot]:
    """Return the snapshots of a training folder; the last row of each number counts."""
    if not (folder / PROGRESS).exists():
        return []
    with (folder / PROGRESS).open() as file:
        rows = [Snapshot(int(n), int(s), int(t), float(r)) for n, s, t, r in csv.reader(file)]
    return list({row.number: row for row in rows}.values())


def best_return(folder: Path) -> float:
    """Return a training's highest simulated return so far, or minus infinity."""
    return max((s.simulated_return for s in read_progress(folder)), default=-np.inf)


def load_snapshot(folder: Path, number: int) -> Network:
    """Read the network of one snapshot."""
    return load_networks(folder / SNAPSHOTS / f"{number:04d}.safetensors")["policy"]


def measured_returns(spec: TaskSpec, network: Network) -> list[float]:
    """Return the episode returns of a network in the real environment, over several goals."""
    specs = [spec]
    if spec.goal is not None:
        family = [s for s in TASKS.values() if s.domain == spec.domain]
        specs = family[:: len(family) // _NUM_GOALS]
    returns = []
    for task in specs:
        env, policy = make_env(task.name), LearnedPolicy(task, network)
        rng = np.random.default_rng((11, *task.name.encode()))
        for _ in range(_EPISODES // len(specs)):
            returns.append(play(env, policy, Rung(BEST), rng).episode_return)
    return returns


def choose_rungs(snapshots: list[Snapshot], best: Snapshot) -> list[Snapshot]:
    """Choose earlier snapshots whose returns are closest to an even division of the range."""
    earlier = [s for s in snapshots if s.number < best.number]
    low = min((s.simulated_return for s in earlier[:1]), default=best.simulated_return)
    chosen: dict[int, Snapshot] = {}
    for k in range(1, _NUM_BELOW + 1):
        wanted = low + (best.simulated_return - low) * k / (_NUM_BELOW + 1)
        if earlier:
            nearest = min(earlier, key=lambda s: abs(s.simulated_return - wanted))
            chosen[nearest.number] = nearest
    return sorted(chosen.values(), key=lambda s: s.simulated_return)


def pack(spec: TaskSpec, folder: Path, library: Path) -> PolicyRecord:
    """Write the ladder of a task's training in `folder`, and its record, to a library folder."""
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
    record: PolicyRecord = {
        "command": f"m3dt behaviour train {policy_name(spec)} --seed {settings['seed']}",
        "recipe": settings["recipe"],
        "seed": settings["seed"],
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
