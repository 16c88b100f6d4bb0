"""What makes data that are missing: the commands that collect or import them."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from m3dt.behaviour import Library
from m3dt.data.format import COLLECTED, DatasetIndex, TaskEntry
from m3dt.tasks import TASKS, get_task
from m3dt.tasks.registration import GYMNASIUM, own_task, plugin_modules
from m3dt.utils.errors import UserError
from m3dt.utils.shell import quoted

_POLICIES = "collect.policies"


def collecting(folder: Path, tasks: Sequence[str]) -> str:
    """Return the command that collects some tasks into a folder."""
    modules = [] if set(tasks) <= set(TASKS) else plugin_modules()
    plugins = [f"plugins=[{','.join(modules)}]"] if modules else []
    return quoted("m3dt", "collect", f"tasks=[{','.join(tasks)}]", f"data={folder}", *plugins)


def collecting_like(index: DatasetIndex, command: str) -> tuple[str, str]:
    """Return a command that collects missing tasks as the tasks of a dataset were collected.

    A setting in which these differ among each other is not added to the command. The second text
    says what FOLDER stands for; it is empty if the command needs no explanation.
    """
    ways = [_way_of(task, entry) for task, entry in index.tasks.items() if _is_collected(entry)]
    values: dict[str, set[str]] = {}
    for key, value in (setting for way in ways for setting in way.items()):
        values.setdefault(key, set()).add(value)
    # Only tasks with the user's own policies have that setting; it does not concern the others.
    same = {key: found.pop() for key, found in values.items() if len(found) == 1}
    return _with_way(command, same, "their policies")


def made_again(folder: Path, task: str, entry: TaskEntry) -> str:
    """Return how a task's file is made again, with the trajectories that the dataset lists."""
    if _is_collected(entry):
        way = _way_of(task, entry)
        command, meaning = _with_way(collecting(folder, [task]), way, f"the policies of {task}")
        return f"run `{command}`" + (f", where {meaning}" if meaning else "")
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


def _way_of(task: str, entry: TaskEntry) -> dict[str, str]:
    """Return the settings that a task was collected with."""
    way = {"collect.trajectories": str(entry.trajectories)}
    if "seed" in entry.made_by:
        way["collect.seed"] = str(entry.made_by["seed"])
    policies = entry.made_by.get("policies")  # their checksum, where they were trained
    own = policies and policies != _shipped_policies(task)
    return {**way, _POLICIES: "FOLDER"} if own else way


def _with_way(command: str, way: Mapping[str, str], policies: str) -> tuple[str, str]:
    """Return a command with the settings that it lacks, and what FOLDER stands for in these."""
    given = {word.partition("=")[0] for word in shlex.split(command)}
    added = {key: value for key, value in way.items() if key not in given}
    words = (f"{key}={value}" for key, value in added.items())
    return " ".join([command, *words]), f"FOLDER holds {policies}" if _POLICIES in added else ""


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
