"""Train the behaviour policies of some tasks and pack each into a library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from m3dt.behaviour.learning.pack import pack
from m3dt.behaviour.learning.recipes import recipe_of
from m3dt.behaviour.learning.train import train
from m3dt.behaviour.library import policy_name
from m3dt.tasks import TASKS, TaskSpec, get_task
from m3dt.utils.errors import UserError


def trainable(names: Sequence[str]) -> list[TaskSpec]:
    """Return one task for each policy that is named, by its own name or by one of its tasks.

    Raises:
        UserError: A name is unknown, or its behaviour is a script.
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
    """Train policies one after another, resuming each, and write their ladders.

    Args:
        names: Tasks or policies.
        folder: Where trainings live, one folder a policy.
        library: Where the ladders go.
        seed: Seed of the trainings.
        console: Where results are told.

    Raises:
        UserError: A name cannot be trained, or a recipe continues from one that is not there.
    """
    for spec in trainable(names):
        name = policy_name(spec)
        recipe = recipe_of(name)
        train(spec, folder / name, recipe, seed, _teller(console, name))
        record = pack(spec, folder / name, library)
        console.print(
            f"{name}: return {record['return_mean']:.1f} +- {record['return_std']:.1f} without "
            f"noise, ladder in {library / f'{name}.safetensors'}"
        )


def _teller(console: Console, name: str) -> Callable[[str], None]:
    return lambda line: console.print(f"  {name}: {line}")
