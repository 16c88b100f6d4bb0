"""The 160 control tasks: catalogue, scores and environments."""

import os

# MuJoCo and dm_control look for a display when they are imported. Rendering stays off unless the
# user chooses a back end.
os.environ.setdefault("MUJOCO_GL", "disable")

from m3dt.tasks.catalog import DOMAINS, SIMULATORS, TASKS, TaskSpec, get_task
from m3dt.tasks.envs import Trajectory, make_env
from m3dt.tasks.suites import paper_score, suite, tasks_of

__all__ = [
    "DOMAINS",
    "SIMULATORS",
    "TASKS",
    "TaskSpec",
    "Trajectory",
    "get_task",
    "make_env",
    "paper_score",
    "suite",
    "tasks_of",
]
