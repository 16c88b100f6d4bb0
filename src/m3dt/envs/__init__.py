"""The tasks in gymnasium's registry: `gymnasium.make("m3dt.envs:m3dt/walker-walk-v0")`.

gymnasium imports the module before the colon; importing it registers all tasks. No simulator is
loaded before an environment is made.
"""

import secrets

import gymnasium

from m3dt.tasks import TASKS, TaskSpec, make_env
from m3dt.tasks.envs import TaskEnv
from m3dt.utils.errors import UserError

__all__ = ["environment_id", "make", "register"]


def environment_id(task: str) -> str:
    """Return a task's id in gymnasium: `m3dt/`, the task's name and our version, `-v0`.

    The `-v2` of Meta-World's tasks belongs to the name: `m3dt/reach-v2-v0`.
    """
    return f"m3dt/{task}-v0"


def make(task: str, render_mode: str | None = "rgb_array") -> TaskEnv:
    """Build a task's environment as gymnasium expects it: unseeded, its episodes are random.

    `m3dt.tasks.make_env` starts the same episodes in every process instead.

    Raises:
        UserError: The task or the render mode is unknown, or MUJOCO_GL names no back end.
    """
    modes = TaskEnv.metadata["render_modes"]
    if render_mode is not None and render_mode not in modes:
        raise UserError(f"render_mode={render_mode!r}: there is only {', '.join(modes)}")
    env = make_env(task, secrets.randbits(32))
    env.render_mode = render_mode
    return env


# gymnasium looks up here which modes it must add by wrappers: human and rgb_array_list.
make.metadata = TaskEnv.metadata  # type: ignore[attr-defined]


def register(spec: TaskSpec) -> None:
    """Register a task, with its horizon as the largest number of steps."""
    gymnasium.register(
        environment_id(spec.name),
        entry_point="m3dt.envs:make",
        max_episode_steps=spec.horizon,
        kwargs={"task": spec.name},
    )


for _spec in TASKS.values():
    register(_spec)
