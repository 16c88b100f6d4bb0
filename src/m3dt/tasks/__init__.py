"""The 160 control tasks: what they are, how they are scored, and their environments."""

from m3dt.tasks.catalog import TASKS, get_task
from m3dt.tasks.envs import make_env, require_simulators
from m3dt.tasks.spec import DOMAINS, TaskSpec
from m3dt.tasks.suites import suite, tasks_of

__all__ = [
    "DOMAINS",
    "TASKS",
    "TaskSpec",
    "get_task",
    "make_env",
    "require_simulators",
    "suite",
    "tasks_of",
]
