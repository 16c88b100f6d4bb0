"""The layouts of other projects, each a function from a source to tasks and their episodes.

Each yields a task's name and its trajectories, the prompts last; memory holds one task at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m3dt.data.format import NUM_PROMPTS
from m3dt.data.importers.checks import trajectory
from m3dt.data.importers.unpickle import load_pickle, load_torch
from m3dt.tasks import TASKS, Trajectory, get_task
from m3dt.utils.errors import UserError

Tasks = Iterator[tuple[str, list[Trajectory]]]


def read_npz(source: Path, names: Sequence[str]) -> Tasks:
    """Read the M3DT authors' layout: `<task>/<i>.npz`, an episode a file, in the order of i.

    Files hold `observations` (T, 39), `actions` (T, 8), `rewards` (T), padded with zeros. The last
    two episodes of a task are its prompts.
    """
    folders = {path.name: path for path in sorted(source.iterdir()) if path.is_dir()}
    found = [name for name in TASKS if name in folders]
    if not found:
        raise UserError(f"{source}: no folder is named after a task (expected <task>/<i>.npz)")
    for name in _chosen(found, names, source):
        files = {p: int(p.stem) for p in folders[name].glob("*.npz") if p.stem.isdecimal()}
        if sorted(files.values()) != list(range(len(files))):
            lacking = min(set(range(len(files))) - set(files.values()))
            raise UserError(f"{folders[name]}: {lacking}.npz is missing of {len(files)} others")
        spec = get_task(name)
        yield (
            name,
            [
                trajectory(spec, str(path), _load_npz(path))
                for path in sorted(files, key=lambda file: files[file])
            ],
        )


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy, zipfile and tokenize each have a family of their own
        raise UserError(f"{path}: damaged or not an npz file ({error})") from None


def read_promptdt(source: Path, names: Sequence[str]) -> Tasks:
    """Read Prompt-DT's pickles: `cheetah_vel-<i>-expert.pkl`, `cheetah_vel-<i>-prompt-expert.pkl`.

    Each is a list of dictionaries with `observations`, `actions`, `rewards`. The first two episodes
    of the prompt file become the task's prompts; without that file, the last two of the other.
    """
    pattern = re.compile(r"(cheetah_vel|ant_dir)-(\d+)-([a-z]+)\.pkl")
    files: dict[str, Path] = {}
    for path in sorted(source.rglob("*.pkl")):
        match = pattern.fullmatch(path.name)
        if match:
            name = f"{match[1].replace('_', '-')}-{match[2]}"
            if name in files:
                raise UserError(
                    f"{source}: {files[name].name} and {path.name} are one task: {name}"
                )
            files[name] = path
    found = [name for name in TASKS if name in files]
    if not found:
        raise UserError(
            f"{source}: no file such as cheetah_vel-0-expert.pkl or ant_dir-0-expert.pkl"
        )
    for name in _chosen(found, names, source):
        path, spec = files[name], get_task(name)
        stem, quality = path.stem.rsplit("-", 1)
        sources = [path, path.with_name(f"{stem}-prompt-{quality}.pkl")]
        episodes = _episodes(path)
        if sources[1].exists():
            episodes += _episodes(sources[1])[:NUM_PROMPTS]
        yield name, [trajectory(spec, f"{path}, episode {i}", e) for i, e in enumerate(episodes)]


def _episodes(path: Path) -> list[dict[str, Any]]:
    content = load_pickle(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise UserError(f"{path}: expected a list of dictionaries, one an episode")
    return content


def read_tdmpc2(source: Path, names: Sequence[str]) -> Tasks:
    """Read TD-MPC2's chunks of the 30 DMControl tasks: `*.pt` files of many episodes each.

    A chunk maps `obs` (M, T+1, S), `action` (M, T+1, A), `reward` (M, T+1) and `task` (M, T+1),
    padded over tasks. Row t+1 holds the action that was taken at obs t and its reward; row 0 holds
    NaN. Tasks are numbered in the order of DMControl here. Chunks are read once for every task, so
    that memory holds one chunk and one task.
    """
    chunks = sorted(source.glob("*.pt")) if source.is_dir() else [source]
    if not chunks:
        raise UserError(f"{source}: no *.pt chunk")
    order = [name for name, spec in TASKS.items() if spec.domain == "dmcontrol"]
    numbers = set()
    for path in chunks:
        numbers |= set(np.unique(_chunk(path)["task"]).tolist())
    if not numbers <= set(range(len(order))):
        raise UserError(
            f"{source}: task numbers up to {max(numbers)}; only the {len(order)} DMControl tasks "
            "of the mt30 dataset can be told apart"
        )
    for name in _chosen([order[int(n)] for n in sorted(numbers)], names, source):
        spec, trajectories = get_task(name), []
        for path in chunks:
            chunk = _chunk(path)
            for row in np.flatnonzero(chunk["task"][:, 0] == order.index(name)):
                arrays = {
                    "observations": chunk["obs"][row, :-1],
                    "actions": chunk["action"][row, 1:],
                    "rewards": chunk["reward"][row, 1:],
                }
                trajectories.append(trajectory(spec, f"{path}, episode {row}", arrays))
        yield name, trajectories


_CHUNK_RANKS = {"obs": 3, "action": 3, "reward": 2, "task": 2}


def _chunk(path: Path) -> dict[str, np.ndarray]:
    content = load_torch(path)
    chunk = {}
    for name, rank in _CHUNK_RANKS.items():
        tensor = content.get(name) if isinstance(content, dict) else None
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != rank:
            raise UserError(f"{path}: '{name}' must be a tensor of rank {rank}")
        chunk[name] = (tensor if name == "task" else tensor.detach().float()).numpy()
    if len({array.shape[:2] for array in chunk.values()}) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in chunk.items())
        raise UserError(f"{path}: episodes and steps differ: {shapes}")
    if (chunk["task"] != chunk["task"][:, :1]).any():
        raise UserError(f"{path}: the task changes within an episode")
    return chunk


def read_minari(source: Path, names: Sequence[str]) -> Tasks:
    """Read one Minari dataset, a folder with `data/` in it, as the one task that is named.

    Minari keeps one observation more than actions, the last; it is dropped.
    """
    try:
        import minari
    except ModuleNotFoundError:
        raise UserError("Minari datasets need minari: pip install 'm3dt[minari]'") from None
    if len(names) != 1:
        raise UserError("a Minari dataset holds one task: name it with --tasks TASK")
    spec = get_task(names[0])
    folder = source if source.name == "data" else source / "data"
    if not folder.is_dir():
        raise UserError(f"{source}: no Minari dataset (expected data/main_data.hdf5 in it)")
    try:
        dataset = minari.MinariDataset(folder)
        episodes = list(dataset.iterate_episodes())
    except Exception as error:  # whatever its library meets in a damaged one
        raise UserError(f"{source}: damaged or not a Minari dataset ({error})") from None
    trajectories = []
    for episode in episodes:
        success = (episode.infos or {}).get("success")
        arrays = {
            "observations": _without_last(episode.observations),
            "actions": episode.actions,
            "rewards": episode.rewards,
            "success": success,
        }
        trajectories.append(trajectory(spec, f"{source}, episode {episode.id}", arrays))
    yield spec.name, trajectories


def _without_last(observations: Any) -> Any:
    return observations[:-1] if isinstance(observations, np.ndarray) else None


def _chosen(found: Sequence[str], names: Sequence[str], source: Path) -> Sequence[str]:
    """Return the tasks to read: those named, else all."""
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"{source}: holds no {', '.join(missing)}; it has {', '.join(found)}")
    return [name for name in found if name in names] if names else found
