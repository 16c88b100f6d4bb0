"""Generations of a run: the agent as it was trained, then after each extension by new tasks.

An extension adds experts and a router by prompts over all experts. It changes no file of an earlier
generation, so that each of them loads as before.
"""

from collections.abc import Sequence
from pathlib import Path

from m3dt.config.load import read_yaml
from m3dt.runs.entries import Entry
from m3dt.runs.registry import BY_PROMPT, Registry
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path


def router_of(generation: int) -> str:
    """Return the name of a generation's router by prompts; the first generation is 0."""
    return f"{BY_PROMPT}-{generation}" if generation else BY_PROMPT


def newest_generation(registry: Registry) -> int:
    """Return the number of the last extension that is finished; 0 without one."""
    number = 0
    while registry.has("router", router_of(number + 1)):
        number += 1
    return number


def is_extended(run: Path, tasks: Sequence[str]) -> bool:
    """Tell whether finished extensions of a run cover some tasks."""
    registry = Registry(run)
    newest = registry.find("router", router_of(newest_generation(registry)))
    known = experts_of(registry, newest) if newest else []
    return set(tasks) <= {task for expert in known for task in expert.tasks}


def experts_of(registry: Registry, router: Entry) -> list[Entry]:
    """Return the experts that a router chooses among, in its order."""
    keys = (key.partition("/") for key in router.parents)
    return [registry.get(kind, name) for kind, _, name in keys if kind == "expert"]


def extension_file(number: int) -> str:
    """Return the name of an extension's configuration, in the run's folder."""
    return f"extension-{number}.yaml"


def copy_models(source: Path, target: Path) -> None:
    """Begin a run as a copy of another one's models and configuration, unless it has begun.

    Raises:
        UserError: The source is no run.
    """
    config = run_config(source)
    if (target / config.name).is_file():
        return
    registry, other = Registry(target), Registry(source)
    for entry in other.entries():
        registry.adopt(other, entry)
    with atomic_path(target / config.name) as temporary:
        temporary.write_bytes(config.read_bytes())


def extension_by(registry: Registry, tasks: list[str]) -> int:
    """Return the number of the extension by these tasks: of one that has begun, or the next.

    Raises:
        UserError: Another extension has begun, but is not finished; or a task is known already.
    """
    number = 1
    while (file := registry.run / extension_file(number)).is_file():
        begun = [str(task) for task in read_yaml(file).get("tasks", [])]
        if begun == tasks:
            return number
        if not registry.has("router", router_of(number)):
            raise UserError(
                f"{registry.run}: its extension by {', '.join(begun)} is not finished. Finish it "
                f"first: m3dt extend --run {registry.run} --tasks {','.join(begun)}."
            )
        number += 1
    known = {task for entry in registry.entries() if entry.kind == "expert" for task in entry.tasks}
    for task in tasks:
        if task in known:
            raise UserError(f"--tasks {task}: the run {registry.run} knows this task already.")
    return number


def run_config(run: Path) -> Path:
    """Return the configuration that a run keeps.

    Raises:
        UserError: The folder is not a run's.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"--run {run}: no run of m3dt: it has no config.yaml.")
    return path
