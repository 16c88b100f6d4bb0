"""Lists of tasks: the paper's subsets (appendix A.3), others of that kind, the quickstart's ten."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources

from m3dt.config import Config
from m3dt.tasks.catalog import TASKS, get_task
from m3dt.tasks.selection import select_tasks
from m3dt.utils.errors import UserError, nearest

# Ten tasks that differ in skill and can be learnt within minutes, in about the ratio 5:3:4:4 of the
# domains.
_QUICKSTART = (
    "door-open-v2",
    "button-press-topdown-v2",
    "window-close-v2",
    "cup-catch",
    "walker-walk",
    "ant-dir-6",
    "ant-dir-16",
    "cheetah-vel-7",
    "cheetah-vel-19",
    "cheetah-vel-31",
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
        return tuple(dict.fromkeys(get_task(name).name for name in config.tasks))
    return suite(config.suite, config.suite_seed)


def suite(name: str, seed: int = 0) -> tuple[str, ...]:
    """Return the task names of a suite.

    Args:
        name: `mt160`, all tasks; `mt10`, `mt20`, `mt40`, `mt80`, `mt120`, the paper's lists for the
            seeds 0 to 2; `mtN` of any other number or seed, a selection by the same rule (appendix
            A.3); or `quickstart`.
        seed: Which subset of that size.

    Raises:
        UserError: There is no such suite.
    """
    if name == "quickstart":
        return _QUICKSTART
    match = re.fullmatch(r"mt([1-9][0-9]{0,2})", name)
    number = int(match[1]) if match else 0
    if not 4 <= number <= len(TASKS):
        names = [*_paper_lists(), "mt160", "quickstart"]
        raise UserError(
            f"unknown suite '{name}'.{nearest(name, names)} ({', '.join(names)}, or any mtN with "
            f"4 <= N <= {len(TASKS)})"
        )
    if number == len(TASKS):
        return tuple(TASKS)
    lists = _paper_lists().get(name, {})
    if str(seed) in lists:
        return tuple(lists[str(seed)])
    return select_tasks(number, seed, _paper_scores())
