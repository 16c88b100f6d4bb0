"""Named lists of tasks: the paper's subsets (appendix A.3) and the quickstart's ten."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from m3dt.errors import UserError, nearest
from m3dt.tasks.catalog import TASKS

# Ten Meta-World tasks that differ in skill: pushing, pulling, turning, sliding, placing, hitting.
_QUICKSTART = (
    "reach-v2",
    "push-v2",
    "pick-place-v2",
    "door-open-v2",
    "drawer-open-v2",
    "drawer-close-v2",
    "button-press-topdown-v2",
    "peg-insert-side-v2",
    "window-open-v2",
    "window-close-v2",
)


@cache
def _paper_lists() -> dict[str, dict[str, list[str]]]:
    text = resources.files("m3dt.tasks").joinpath("paper_suites.json").read_text()
    return json.loads(text)


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
