"""Suites, named lists of tasks: the paper's subsets (appendix A.3), new ones, the quickstart."""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

import numpy as np

from m3dt.config import Config
from m3dt.tasks.catalog import DOMAINS, TASKS
from m3dt.tasks.registration import get_task
from m3dt.utils.errors import UserError, nearest

# Twelve tasks of all four domains that conflict, such as running forwards and backwards: sharing
# one model costs some of them, and experts of task groups give it back within minutes.
_QUICKSTART = (
    "reach-v2", "door-open-v2", "window-close-v2",
    "cheetah-run", "cheetah-run-backwards", "cartpole-swingup-sparse", "pendulum-swingup",
    "reacher-easy",
    "cheetah-vel-2", "cheetah-vel-31",
    "ant-dir-6", "ant-dir-16",
)  # fmt: skip
# Tasks that others have held out of training, or learned one after the other.
_HELD_OUT = {
    # Continual World (arXiv 2105.10919): ten tasks in a row.
    "cw10": (
        "hammer-v2", "push-wall-v2", "faucet-close-v2", "push-back-v2", "stick-pull-v2",
        "handle-press-side-v2", "push-v2", "shelf-place-v2", "window-close-v2",
        "peg-unplug-side-v2",
    ),
    # L2M (arXiv 2306.14884): fine-tuning on DMControl.
    "dmc6": (
        "cup-catch", "cartpole-swingup", "cheetah-run", "finger-spin", "reacher-hard",
        "walker-walk",
    ),
    # Prompt-DT (arXiv 2206.13499): test tasks of Cheetah-vel and Ant-dir.
    "promptdt": (
        "cheetah-vel-2", "cheetah-vel-7", "cheetah-vel-15", "cheetah-vel-23", "cheetah-vel-26",
        "ant-dir-6", "ant-dir-17", "ant-dir-23", "ant-dir-30",
    ),
    # Meta-World's ML45 (arXiv 1910.10897): test tasks.
    "ml45": (
        "bin-picking-v2", "box-close-v2", "hand-insert-v2", "door-lock-v2", "door-unlock-v2",
    ),
}  # fmt: skip
_HELD_OUT["h25"] = tuple(task for name in ("cw10", "dmc6", "promptdt") for task in _HELD_OUT[name])
_TRAIN = "-train"  # ends the name of all tasks that a held-out suite leaves
_TOLERANCE = 0.5  # largest accepted difference between the mean scores of a subset and of all tasks
_MAX_DRAWS = 10_000


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
    """Return the tasks of an experiment: those in `tasks`, or else those of its suite.

    Raises:
        UserError: A task or the suite is unknown.
    """
    key = "tasks" if config.tasks else "suite"
    try:
        if config.tasks:
            return _distinct([get_task(name).name for name in config.tasks])
        return suite(config.suite, config.suite_seed)
    except UserError as error:
        raise type(error)(f"{config.sources.of(key)}: {key}: {error}") from None


def _distinct(names: list[str]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{', '.join(twice)} is listed more than once")
    return tuple(names)


def suite(name: str, seed: int = 0) -> tuple[str, ...]:
    """Return the task names of a suite.

    The name is `mt160` for all tasks; `mt10`, `mt20`, `mt40`, `mt80` or `mt120` for the paper's
    lists (seeds 0 to 2); `mtN` with another size or seed for a new subset by the paper's rule
    (appendix A.3); or `quickstart`. Held-out splits of others are `cw10`, `dmc6`, `promptdt`,
    `ml45` and `h25`, the first three together; `h25-train` are the tasks that it leaves.

    Raises:
        UserError: The suite is unknown.
    """
    if name == "quickstart":
        return _QUICKSTART
    split = _HELD_OUT.get(name.removesuffix(_TRAIN))
    if split is not None:
        left = tuple(task for task in TASKS if task not in split)
        return left if name.endswith(_TRAIN) else split
    match = re.fullmatch(r"mt([1-9][0-9]{0,2})", name)
    size = int(match[1]) if match else 0
    if not 4 <= size <= len(TASKS):
        names = [*_paper_lists(), "mt160", "quickstart", *_HELD_OUT]
        raise UserError(
            f"unknown suite '{name}'.{nearest(name, names)} ({', '.join(names)}, or any mtN with "
            f"4 <= N <= {len(TASKS)}; {', '.join(f'{split}{_TRAIN}' for split in _HELD_OUT)})"
        )
    if size == len(TASKS):
        return tuple(TASKS)
    lists = _paper_lists().get(name, {})
    if str(seed) in lists:
        return tuple(lists[str(seed)])
    return select_tasks(size, seed, _paper_scores())


def domain_counts(count: int) -> dict[str, int]:
    """Divide `count` tasks among the domains in the ratio of all tasks, by largest remainder."""
    sizes = {d: sum(spec.domain == d for spec in TASKS.values()) for d in DOMAINS}
    exact = {d: count * size / len(TASKS) for d, size in sizes.items()}
    counts = {d: int(share) for d, share in exact.items()}
    by_remainder = sorted(DOMAINS, key=lambda d: counts[d] - exact[d])
    for d in by_remainder[: count - sum(counts.values())]:
        counts[d] += 1
    return counts


def select_tasks(count: int, seed: int, scores: Mapping[str, float]) -> tuple[str, ...]:
    """Draw a subset of tasks, in catalogue order, by the domains' ratio and the mean difficulty.

    It is the first draw whose mean score (of models trained on one task alone) differs by at most
    half a point from that of all tasks, or else the closest of 10,000 draws.

    Raises:
        ValueError: `count` is out of range.
    """
    if not 4 <= count <= len(TASKS):
        raise ValueError(f"cannot choose {count} of {len(TASKS)} tasks: give 4 to {len(TASKS)}")
    rng = np.random.default_rng((seed, count))
    mean = np.mean([scores[name] for name in TASKS])
    counts = domain_counts(count)
    by_domain = {d: [n for n, spec in TASKS.items() if spec.domain == d] for d in DOMAINS}
    best: tuple[float, set[str]] = (np.inf, set())
    for _ in range(_MAX_DRAWS):
        drawn: set[str] = set()
        for domain, names in by_domain.items():
            drawn.update(rng.choice(names, counts[domain], replace=False).tolist())
        distance = abs(float(np.mean([scores[name] for name in sorted(drawn)]) - mean))
        if distance < best[0]:
            best = distance, drawn
        if distance <= _TOLERANCE:
            break
    return tuple(name for name in TASKS if name in best[1])
