"""One way to build the environment of any task."""

from __future__ import annotations

from m3dt.tasks.catalog import get_task
from m3dt.tasks.task_env import TaskEnv


def make_env(name: str, seed: int = 0) -> TaskEnv:
    """Build the environment of a task, with its native observation and action widths.

    The simulator is imported here, so that reading data or training never loads it. DMControl's
    environments have `physics`; those of the locomotion domains have `set_state(qpos, qvel)`.

    Args:
        name: A task name, such as `reach-v2`.
        seed: Seed of the sequence of initial states; `env.reset(seed=...)` starts another.

    Raises:
        UserError: The task is unknown.
    """
    spec = get_task(name)
    if spec.domain == "metaworld":
        from m3dt.tasks.metaworld import MetaWorldEnv

        return MetaWorldEnv(spec, seed)
    if spec.domain == "dmcontrol":
        from m3dt.tasks.dmcontrol import DMControlEnv

        return DMControlEnv(spec, seed)
    from m3dt.tasks.locomotion import LocomotionEnv

    return LocomotionEnv(spec, seed)
