"""One way to build the environment of any task."""

from __future__ import annotations

from collections.abc import Iterable

import gymnasium

from m3dt.errors import UserError
from m3dt.tasks.catalog import get_task

_SIMULATED = ("metaworld",)


def require_simulators(names: Iterable[str]) -> None:
    """Refuse tasks that this version cannot simulate, all of them named.

    Raises:
        UserError: A task is unknown or its domain has no simulator.
    """
    foreign = [name for name in names if get_task(name).domain not in _SIMULATED]
    if foreign:
        raise UserError(
            f"this version simulates Meta-World's tasks only, not {', '.join(foreign)}: "
            "choose others with tasks=[...], or train on a dataset that holds them"
        )


def make_env(name: str, seed: int = 0) -> gymnasium.Env:
    """Build the environment of a task, with its native observation and action widths.

    The simulator is imported here, so that reading data or training never loads it.

    Args:
        name: A task name, such as `reach-v2`.
        seed: Seed of the sequence of initial states; `env.reset(seed=...)` starts another.

    Raises:
        UserError: The task is unknown or its domain has no simulator in this version.
    """
    spec = get_task(name)
    require_simulators([name])
    from m3dt.tasks.metaworld import MetaWorldEnv

    return MetaWorldEnv(spec, seed)
