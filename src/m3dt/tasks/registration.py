"""Find a task by its name: one of the 160, one that a user registered, or a gymnasium id."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from m3dt.tasks.catalog import DOMAINS, TASKS
from m3dt.tasks.spec import TaskSpec
from m3dt.utils.class_paths import import_named
from m3dt.utils.errors import UnknownTask, UserError, nearest

if TYPE_CHECKING:
    import gymnasium

GYMNASIUM = "gym:"  # before the id of a registered gymnasium environment

MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]
Controller = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class OwnTask:
    """A task that is not of the 160: how to build its environment, and a policy that solves it."""

    spec: TaskSpec
    make_env: MakeEnv
    policy: Controller | None
    module: str  # whose import registers the task


_own: dict[str, OwnTask] = {}
_plugins: list[str] = []
_in_worker = False  # whether another process, which knows the tasks, asks this one to step them


def register_task(spec: TaskSpec, make_env: MakeEnv, policy: Controller | None = None) -> None:
    """Make a task of one's own known to m3dt.

    Call it at the top level of a module that a configuration names under `plugins`: the processes
    that step environments import this module, too. A task registered again replaces the former.

    Args:
        spec: The task.
        make_env: Takes nothing and returns a gymnasium environment. Its observations and actions
            are `Box`es, or `Dict`s and `Tuple`s of `Box`es, which are flattened in the order of
            `gymnasium.spaces.flatten`: by sorted key. Its `info["success"]` or
            `info["is_success"]`, if there is one, says whether a step was a success.
        policy: Takes a flat observation, (S,) of float32, and returns an action in [-1, 1], (A,).
            `m3dt collect` plays it with noise. Without a policy it plays random actions.

    Raises:
        UserError: A field of the specification is wrong, the name or the domain is of the 160, or
            something is given that cannot be called.
    """
    if not isinstance(spec, TaskSpec):
        raise UserError(f"register_task: {spec!r} is no m3dt.TaskSpec.")
    spec.check()
    for name, given in (("make_env", make_env), ("policy", policy)):
        if not (callable(given) or (name == "policy" and given is None)):
            raise UserError(
                f"task '{spec.name}': {name}={given!r} must be a function, such as "
                f"{'lambda: env' if name == 'make_env' else 'lambda observation: action'}."
            )
    if spec.domain in DOMAINS:
        raise UserError(
            f"task '{spec.name}': the domain {spec.domain} has rules of its own. Give another name."
        )
    if spec.name in TASKS:
        raise UserError(f"task '{spec.name}': one of the 160 tasks has this name. Give another.")
    _own[spec.name] = OwnTask(spec, make_env, policy, sys._getframe(1).f_globals["__name__"])


def own_task(name: str) -> OwnTask | None:
    """Return a task that is not of the 160, or None.

    Raises:
        UserError: The name is a gymnasium id whose environment cannot be a task.
    """
    if name not in _own and name.startswith(GYMNASIUM):
        from m3dt.tasks.gym_env import gymnasium_task

        spec, make_env = gymnasium_task(name.removeprefix(GYMNASIUM))
        _own[name] = OwnTask(spec, make_env, None, __name__)
    return _own.get(name)


def get_task(name: str) -> TaskSpec:
    """Return the specification of a task.

    Raises:
        UserError: There is no task of that name.
    """
    if not isinstance(name, str):
        raise UserError(f"{name!r:.60} is no name of a task: give text, such as 'reach-v2'.")
    if name in TASKS:
        return TASKS[name]
    own = own_task(name)
    if own is None and _in_worker:
        raise UserError(
            f"the process that steps '{name}' does not know it. Register it at the top level of a "
            'module or a script, not under `if __name__ == "__main__"` nor in a notebook.'
        )
    if own is None:
        raise UnknownTask(
            f"unknown task '{name}'.{nearest(name, known_tasks())} A task of your own is known "
            "once the module that registers it is imported."
        )
    return own.spec


def known_tasks() -> list[str]:
    """Return the names of the 160 tasks and of all that were registered."""
    return [*TASKS, *_own]


def domains_of(tasks: Iterable[str]) -> list[str]:
    """Return the domains of some tasks: the paper's in its order, then others as they appear."""
    found = dict.fromkeys(get_task(task).domain for task in tasks)
    return [*(d for d in DOMAINS if d in found), *(d for d in found if d not in DOMAINS)]


def import_plugins(modules: Sequence[str], where: str = "plugins") -> None:
    """Import a user's modules, also from the working directory.

    Args:
        modules: Their dotted names.
        where: What names them and where; begins an error.

    Raises:
        UserError: One cannot be imported.
    """
    for name in modules:
        import_named(name, f"{where}: {name}")
        if name not in _plugins:
            _plugins.append(name)


def import_in_worker(modules: Sequence[str]) -> None:
    """Import what registers the tasks of the process that started this one."""
    global _in_worker
    _in_worker = True
    import_plugins(modules)


def plugin_modules() -> list[str]:
    """Return the modules that a new process imports to know the same tasks as this one.

    A script is not among them: `multiprocessing` imports it by itself.
    """
    registering = (own.module for own in _own.values())
    return [m for m in dict.fromkeys([*_plugins, *registering]) if m not in ("__main__", __name__)]
