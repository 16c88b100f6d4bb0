"""One way to build the environment of any task."""

from __future__ import annotations

import gymnasium

from m3dt.errors import UserError
from m3dt.tasks.catalog import get_task


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
    if spec.domain == "metaworld":
        from m3dt.tasks.metaworld import MetaWorldEnv

        return MetaWorldEnv(spec, seed)
    raise UserError(
        f"{name}: no simulator for the domain {spec.domain} in this version; "
        "Meta-World tasks can be simulated"
    )
