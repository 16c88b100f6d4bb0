"""What a study compares: the settings that its cells deviate from, and its numbers of tasks."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from m3dt.config import DEFAULT_CONF, Config, find_study, load_config, read_yaml
from m3dt.tasks import suite, tasks_of
from m3dt.utils.errors import UserError

METHOD_PARTS = ("baselines", "m3dt")  # parts that compare methods over the number of tasks
_DEFAULT = "lite"  # the study of a table that is not named after one


@dataclass(frozen=True)
class Design:
    """The plan of a study.

    Attributes:
        base: The configuration that cells deviate from.
        task_counts: Numbers of tasks on which methods are compared, ascending.
        medium: The number of tasks of most cells, on which everything else is compared.
        seeds: The number of seeds of each part.
    """

    base: Config
    task_counts: tuple[int, ...]
    medium: int
    seeds: Mapping[str, int]


def has_design(study: str) -> bool:
    """Tell whether a study of this name is found: here, or in `conf/study`."""
    try:
        find_study(Path(f"{study}.yaml"))
    except UserError:
        return False
    return True


@cache
def design_of(study: str) -> Design:
    """Return the design of a study in `conf/study`; that of `lite` for any other name.

    Raises:
        UserError: The study or its configuration cannot be read.
    """
    if not has_design(study) and study != _DEFAULT:
        return design_of(_DEFAULT)
    path = find_study(Path(f"{study}.yaml"))
    content: Any = OmegaConf.to_container(read_yaml(path))
    fixed = [str(text) for text in content.get("set") or [] if "{" not in str(text)]
    base = load_config(str(content.get("conf", DEFAULT_CONF)), fixed)
    cells: Counter[int] = Counter()
    compared, seeds = set(), {}
    for name, part in (content.get("parts") or {"": content}).items():
        grid = part["grid"]
        seeds[name] = len(grid.get("seed", [base.seed]))
        counts = [num_tasks(suite) for suite in grid.get("suite", [suite_of(base)])]
        for count in counts:
            cells[count] += math.prod(map(len, grid.values())) // len(counts)
        compared |= set(counts) if name in METHOD_PARTS else set()
    medium = max(cells, key=lambda count: (cells[count], count))
    return Design(base, tuple(sorted(compared or cells)), medium, seeds)


def suite_of(config: Config) -> str:
    """Return the suite of an experiment: `mt12` for any 12 tasks."""
    return f"mt{len(tasks_of(config))}"


def num_tasks(suite_name: str) -> int:
    """Return the number of tasks of a suite."""
    count = suite_name.removeprefix("mt")
    return int(count) if count.isdigit() else len(suite(suite_name, 0))
