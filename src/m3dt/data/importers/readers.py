"""Readers of npz files, Prompt-DT's pickles and TD-MPC2's chunks.

Each reader takes a source and task names, and yields every task's name with its trajectories, the
prompts last. Only one task is in memory at a time.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m3dt.data.format import NUM_PROMPTS
from m3dt.data.importers.archives import LARGEST_EPISODE, check_sizes
from m3dt.data.importers.checks import checked_trajectory
from m3dt.data.importers.unpickle import load_pickle, load_torch
from m3dt.tasks import TASKS, Trajectory, get_task, known_tasks
from m3dt.utils.counts import agreeing
from m3dt.utils.errors import UserError

Tasks = Iterator[tuple[str, list[Trajectory]]]
_PROMPTDT_NAME = re.compile(r"(cheetah_vel|ant_dir)-(\d+)-([a-z]+)\.pkl")
_CHUNK_RANKS = {"obs": 3, "action": 3, "reward": 2, "task": 2}


def read_npz(source: Path, names: Sequence[str]) -> Tasks:
    """Read the M3DT authors' format: `<task>/<i>.npz`, one episode per file, numbered from 0.

    The source is the folder of all tasks or that of one.
    Files contain `observations` (T, 39), `actions` (T, 8) and `rewards` (T,), padded with zeros.
    The last two episodes of a task are its prompts.
    """
    if not source.is_dir():
        raise UserError(f"{source}: expected the folder that holds <task>/<i>.npz")
    parts = [source] if source.name in known_tasks() else sorted(source.iterdir())
    folders = {path.name: path for path in parts if path.is_dir()}
    found = [name for name in known_tasks() if name in folders]
    if not found:
        raise UserError(f"{source}: no folder is named after a task (expected <task>/<i>.npz)")
    for name in _chosen(found, names, source):
        spec, paths = get_task(name), _numbered_files(folders[name])
        yield name, [checked_trajectory(spec, str(path), _load_npz(path)) for path in paths]


def _numbered_files(folder: Path) -> list[Path]:
    """Return `0.npz`, `1.npz`, ... in order, after checking that none is missing."""
    files = sorted((int(p.stem), p) for p in folder.glob("*.npz") if p.stem.isdecimal())
    missing = set(range(len(files))) - {number for number, _ in files}
    if missing:
        files_there = agreeing(len(files), "1 other is", f"{len(files)} others are")
        raise UserError(f"{folder}: {min(missing)}.npz is missing; {files_there} there")
    return [path for _, path in files]


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        check_sizes(path, LARGEST_EPISODE)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except UserError:
        raise
    except Exception as error:  # numpy, zipfile and tokenize raise many kinds
        raise UserError(f"{path}: damaged or not an npz file ({error})") from None


def read_promptdt(source: Path, names: Sequence[str]) -> Tasks:
    """Read Prompt-DT's pickles: `cheetah_vel-<i>-expert.pkl`, `cheetah_vel-<i>-prompt-expert.pkl`.

    Each file is a list of dictionaries with `observations`, `actions` and `rewards`. The prompts
    are the first two episodes of the prompt file, or without one the last two of the other file.
    """
    files = _promptdt_files(source)
    found = [name for name in known_tasks() if name in files]
    if not found:
        expected = "cheetah_vel-0-expert.pkl or ant_dir-0-expert.pkl"
        raise UserError(f"{source}: no file such as {expected}")
    for name in _chosen(found, names, source):
        path, spec = files[name], get_task(name)
        stem, quality = path.stem.rsplit("-", 1)
        prompts = path.with_name(f"{stem}-prompt-{quality}.pkl")
        episodes = _episodes(path)
        if prompts.exists():
            episodes += _episodes(prompts)[:NUM_PROMPTS]
        where = f"{path}, episode"
        yield name, [checked_trajectory(spec, f"{where} {i}", e) for i, e in enumerate(episodes)]


def _promptdt_files(source: Path) -> dict[str, Path]:
    """Return the files of training episodes, by task name. The source may be one of them."""
    files: dict[str, Path] = {}
    for path in sorted(source.rglob("*.pkl")) if source.is_dir() else [source]:
        match = _PROMPTDT_NAME.fullmatch(path.name)
        if match:
            name = f"{match[1].replace('_', '-')}-{match[2]}"
            if name in files:
                both = f"{files[name].relative_to(source)} and {path.relative_to(source)}"
                raise UserError(
                    f"{source}: {both} are the same task, {name}. Choose one: give the file itself "
                    "as the source, or a folder that holds one file per task. To join them, "
                    "write the list of all their episodes to one such file."
                )
            files[name] = path
    return files


def _episodes(path: Path) -> list[dict[str, Any]]:
    content = load_pickle(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise UserError(f"{path}: expected a list of dictionaries, one per episode")
    return content


def read_tdmpc2(source: Path, names: Sequence[str]) -> Tasks:
    """Read TD-MPC2's chunks of the 30 DMControl tasks: `*.pt` files with many episodes each.

    A chunk maps `obs` (episodes, T+1, S), `action` (episodes, T+1, A), `reward` and `task`
    (episodes, T+1), padded to common widths. Row t+1 contains the action taken at `obs` t and its
    reward; row 0 contains NaN. Tasks have the numbers of our DMControl order. Each chunk is read
    once per task, so that memory holds one chunk and one task.
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
            f"{source}: task numbers up to {max(numbers)}, but only the {len(order)} DMControl "
            "tasks of the mt30 dataset are known by number"
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
                trajectories.append(checked_trajectory(spec, f"{path}, episode {row}", arrays))
        yield name, trajectories


def _chunk(path: Path) -> dict[str, np.ndarray]:
    content = load_torch(path)
    chunk = {}
    for name, rank in _CHUNK_RANKS.items():
        tensor = content.get(name) if isinstance(content, dict) else None
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != rank:
            raise UserError(f"{path}: '{name}' must be a tensor of rank {rank}")
        numbers = not tensor.is_floating_point() if name == "task" else not tensor.is_complex()
        if not numbers:
            raise UserError(f"{path}: '{name}' holds {tensor.dtype}")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: '{name}' repeats its values to {tuple(tensor.shape)}")
        chunk[name] = (tensor.long() if name == "task" else tensor.detach().float()).numpy()
    if len({array.shape[:2] for array in chunk.values()}) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in chunk.items())
        raise UserError(f"{path}: numbers of episodes and steps differ: {shapes}")
    if (chunk["task"] != chunk["task"][:, :1]).any():
        raise UserError(f"{path}: the task changes within an episode")
    return chunk


def _chosen(found: Sequence[str], names: Sequence[str], source: Path) -> Sequence[str]:
    """Return the tasks to read: those in `names`, or all if it is empty."""
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"{source}: holds no {', '.join(missing)}; it has {', '.join(found)}")
    return [name for name in found if name in names] if names else found
