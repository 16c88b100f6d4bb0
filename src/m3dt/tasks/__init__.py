"""The 160 control tasks and a user's own: specifications, scores and environments."""

import os

# MuJoCo and dm_control look for a display when they are imported. Rendering stays off unless the
# user chooses a back end.
os.environ.setdefault("MUJOCO_GL", "disable")

from m3dt.tasks.catalog import DOMAINS, SIMULATORS, TASKS
from m3dt.tasks.envs import Trajectory, make_env
from m3dt.tasks.registration import domains_of, get_task, known_tasks, register_task
from m3dt.tasks.spec import TaskSpec
from m3dt.tasks.suites import paper_score, suite, tasks_of

__all__ = [
    "DOMAINS",
    "SIMULATORS",
    "TASKS",
    "TaskSpec",
    "Trajectory",
    "domains_of",
    "get_task",
    "known_tasks",
    "make_env",
    "paper_score",
    "register_task",
    "suite",
    "tasks_of",
]
