"""Named lists of tasks: the paper's subsets (appendix A.3) and the quickstart's ten."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from m3dt.config import Config
from m3dt.errors import UserError, nearest
from m3dt.tasks.catalog import TASKS, get_task

# Ten Meta-World tasks that differ in skill and can be learnt within minutes.
_QUICKSTART = (
    "reach-v2",
    "push-v2",
    "door-open-v2",
    "drawer-open-v2",
    "drawer-close-v2",
    "button-press-topdown-v2",
    "window-open-v2",
    "window-close-v2",
    "faucet-open-v2",
    "plate-slide-v2",
)


@cache
def _paper_lists() -> dict[str, dict[str, list[str]]]:
    text = resources.files("m3dt.tasks").joinpath("paper_suites.json").read_text()
    return json.loads(text)


@cache
def _paper_scores() -> dict[str, float]:
    text = resources.files("m3dt.tasks").joinpath("paper_single_task.csv").read_text()
    rows = (line.split(",") for line in text.splitlines()[1:])
    return {task: float(score) for task, score in rows}


def paper_score(task: str) -> float:
    """Return the paper's normalized score of a model trained on this task alone (appendix)."""
    return _paper_scores()[get_task(task).name]


def tasks_of(config: Config) -> tuple[str, ...]:
    """Return the tasks of an experiment: those it names, else those of its suite.

    Raises:
        UserError: A task or the suite is unknown.
    """
    if config.tasks:
        return tuple(get_task(name).name for name in config.tasks)
    return suite(config.suite, config.suite_seed)


def suite(name: str, seed: int = 0) -> tuple[str, ...]:
    """Return the task names of a suite.

    Args:
        name: `mt10`, `mt20`, `mt40`, `mt80`, `mt120`, `mt160` or `quickstart`.
        seed: Which of the paper's three lists of that size; the other suites have one list.

    Raises:
        UserError: There is no such suite, or none of that seed.
    """
    if name == "quickstart":
        return _QUICKSTART
    if name == "mt160":
        return tuple(TASKS)
    lists = _paper_lists()
    if name not in lists:
        names = [*lists, "mt160", "quickstart"]
        raise UserError(f"unknown suite '{name}'.{nearest(name, names)} ({', '.join(names)})")
    if str(seed) not in lists[name]:
        raise UserError(f"suite '{name}' has no seed {seed}: choose {', '.join(lists[name])}")
    return tuple(lists[name][str(seed)])
