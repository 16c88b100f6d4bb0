"""What makes data that are missing: the commands that collect or import them."""

from collections.abc import Sequence
from pathlib import Path

from m3dt.behaviour import Library
from m3dt.data.format import COLLECTED, DatasetIndex, TaskEntry
from m3dt.tasks import TASKS, get_task
from m3dt.tasks.registration import GYMNASIUM, own_task, plugin_modules
from m3dt.utils.errors import UserError
from m3dt.utils.shell import quoted


def collecting(folder: Path, tasks: Sequence[str]) -> str:
    """Return the command that collects some tasks into a folder."""
    modules = [] if set(tasks) <= set(TASKS) else plugin_modules()
    plugins = [f"plugins=[{','.join(modules)}]"] if modules else []
    return quoted("m3dt", "collect", f"tasks=[{','.join(tasks)}]", f"data={folder}", *plugins)


def collecting_like(index: DatasetIndex, command: str) -> str:
    """Return a command that collects missing tasks as the tasks of a dataset were collected.

    Nothing is added to a command where these differ among each other, or were all imported.
    """
    ways = [way_of(task, entry) for task, entry in index.tasks.items() if _is_collected(entry)]
    same = ways[0] if ways and all(way == ways[0] for way in ways) else []
    return _with_way(command, same)


def made_again(folder: Path, task: str, entry: TaskEntry) -> str:
    """Return how a task's file is made again, with the trajectories that the dataset lists."""
    if _is_collected(entry):
        return f"run {_with_way(collecting(folder, [task]), way_of(task, entry))}"
    made_by, again = entry.made_by, "import its dataset again"
    if "format" not in made_by:
        return again
    chosen = made_by.get("observation")
    keys = ["--observation", ",".join(map(str, chosen))] if isinstance(chosen, list) else []
    plugins, meaning = _plugins_of(task)
    command = quoted(
        "m3dt", "import", "SOURCE", folder, "--format", made_by["format"], "--tasks", task,
        *keys, *plugins,
    )  # fmt: skip
    source = made_by.get("source", "it")
    return f"{again}: `{command}`, where SOURCE is the path of {source}{meaning}"


def way_of(task: str, entry: TaskEntry) -> list[str]:
    """Return the settings that a task was collected with, as overrides."""
    way = [f"collect.trajectories={entry.trajectories}"]
    way += [f"collect.seed={entry.made_by.get('seed')}"]
    policies = entry.made_by.get("policies")  # their checksum, where they were trained
    own = policies and policies != _shipped_policies(task)
    return [*way, "collect.policies=FOLDER"] if own else way


def _with_way(command: str, way: Sequence[str]) -> str:
    """Return a command in backquotes with the settings it lacks, and what FOLDER stands for."""
    words = " ".join([command, *(word for word in way if word not in command.split())])
    return f"`{words}`" + (" with the folder of its policies" if "FOLDER" in words else "")


def _plugins_of(task: str) -> tuple[list[str], str]:
    """Return the option that makes a command know a task, and the meaning of MODULES in it."""
    if task in TASKS or task.startswith(GYMNASIUM):
        return [], ""
    own, modules = own_task(task), plugin_modules()
    if own and own.module in modules:
        return ["--plugins", ",".join(modules)], ""
    return ["--plugins", "MODULES"], " and MODULES register the task"


def _is_collected(entry: TaskEntry) -> bool:
    return entry.made_by.get("behaviour") in COLLECTED


def _shipped_policies(task: str) -> str:
    """Return the checksum of the package's policies for a task, or nothing if it has none."""
    try:
        return Library().checksum(get_task(task))
    except UserError:
        return ""
