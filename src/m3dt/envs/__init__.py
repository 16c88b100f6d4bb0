"""The tasks in gymnasium's registry: `gymnasium.make("m3dt.envs:m3dt/walker-walk-v0")`.

gymnasium imports the module before the colon; importing it registers all tasks. No simulator is
loaded before an environment is made.
"""

import secrets
from collections.abc import Sequence

import gymnasium
from gymnasium.envs.registration import EnvSpec

from m3dt.tasks import TASKS, get_task, make_env
from m3dt.tasks.envs import TaskEnv
from m3dt.tasks.registration import import_plugins, own_task, plugin_modules
from m3dt.utils.errors import UserError
from m3dt.utils.paths import file_stem

__all__ = ["environment_id", "environment_spec", "make"]


def environment_id(task: str) -> str:
    """Return a task's id in gymnasium and Minari: `m3dt/`, the task's name and our version, `-v0`.

    The `-v2` of Meta-World's tasks belongs to the name: `m3dt/reach-v2-v0`. Characters that ids may
    not contain occur in the names of own tasks only; they become `_`, and a digest follows.
    """
    return f"m3dt/{file_stem(task, '-0-9A-Za-z_')}-v0"


def environment_spec(task: str) -> EnvSpec:
    """Return what gymnasium makes a task's environment from, also in another process.

    Raises:
        UserError: The task is unknown.
    """
    kwargs: dict[str, object] = {"task": task}
    if own_task(task):
        kwargs["plugins"] = plugin_modules()
    return EnvSpec(
        environment_id(task),
        entry_point="m3dt.envs:make",
        max_episode_steps=get_task(task).horizon,
        kwargs=kwargs,
    )


def make(task: str, render_mode: str | None = "rgb_array", plugins: Sequence[str] = ()) -> TaskEnv:
    """Build a task's environment as gymnasium expects it: unseeded, its episodes are random.

    `m3dt.tasks.make_env` starts the same episodes in every process instead. `plugins` are modules
    that register own tasks.

    Raises:
        UserError: The task or the render mode is unknown, MUJOCO_GL names no back end, or a module
            cannot be imported.
    """
    modes = TaskEnv.metadata["render_modes"]
    if render_mode is not None and render_mode not in modes:
        raise UserError(f"render_mode={render_mode!r}: there is only {', '.join(modes)}")
    import_plugins(plugins)
    env = make_env(task, secrets.randbits(32))
    env.render_mode = render_mode
    return env


# gymnasium looks up here which modes it must add by wrappers: human and rgb_array_list.
make.metadata = TaskEnv.metadata  # type: ignore[attr-defined]

for _spec in map(environment_spec, TASKS):
    gymnasium.register(
        _spec.id,
        _spec.entry_point,
        max_episode_steps=_spec.max_episode_steps,
        kwargs=_spec.kwargs,
    )
