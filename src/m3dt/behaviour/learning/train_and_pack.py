"""Train the behaviour policies of several tasks and add their ladders to a library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from m3dt.behaviour.learning.pack import pack
from m3dt.behaviour.learning.ppo import train
from m3dt.behaviour.learning.recipes import RECIPES
from m3dt.behaviour.library import policy_name
from m3dt.tasks import TASKS, TaskSpec, get_task
from m3dt.utils.errors import UserError


def trainable(names: Sequence[str]) -> list[TaskSpec]:
    """Return one task per policy; a name may be a policy's or one of its tasks'.

    Raises:
        UserError: A name is unknown, or its policy is a script.
    """
    specs: dict[str, TaskSpec] = {}
    for name in names:
        spec = next((s for s in TASKS.values() if policy_name(s) == name), None) or get_task(name)
        if spec.domain == "metaworld":
            raise UserError(f"'{name}' is played by Meta-World's own script: nothing to train")
        specs[policy_name(spec)] = spec
    return list(specs.values())


def train_and_pack(
    names: Sequence[str], folder: Path, library: Path, seed: int, console: Console
) -> None:
    """Train policies one after another, or resume them, and write their ladders.

    Args:
        names: Tasks or policies.
        folder: Folder of the trainings, with one subfolder per policy.
        library: Folder of the ladders.
        seed: Seed of the trainings.
        console: Where to print progress and results.

    Raises:
        UserError: A name cannot be trained, or a recipe starts from a policy that is missing.
    """
    for spec in trainable(names):
        name = policy_name(spec)
        log = partial(_print_line, console, name)
        train(spec, folder / name, RECIPES[name], seed, log)
        record = pack(spec, folder / name, library)
        console.print(
            f"{name}: return {record['return_mean']:.1f} +- {record['return_std']:.1f} without "
            f"noise, ladder in {library / f'{name}.safetensors'}"
        )


def _print_line(console: Console, name: str, line: str) -> None:
    console.print(f"  {name}: {line}")
