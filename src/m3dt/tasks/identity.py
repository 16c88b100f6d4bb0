"""What scores of a user's own tasks depend on: their specification and the code behind it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Number
from pathlib import Path
from types import CellType, CodeType
from typing import Any

from m3dt.tasks.catalog import TASKS
from m3dt.tasks.registration import GYMNASIUM, OwnTask, own_task
from m3dt.tasks.spec import TaskSpec
from m3dt.utils.files import fingerprint, sha256


def own_identities(specs: Iterable[TaskSpec]) -> dict[str, Any]:
    """Return what identifies those tasks that are not of the 160, by name, as JSON holds it.

    Besides widths, returns and the score, it is the content of the files that register a task, make
    its environment and score it. What these import in turn is not followed.
    """
    return {spec.name: _identity(spec) for spec in specs if spec.name not in TASKS}


def _identity(spec: TaskSpec) -> dict[str, Any]:
    numbers = (spec.target_return, spec.return_scale)
    own = own_task(spec.name)
    made = [] if own is None or spec.name.startswith(GYMNASIUM) else described(own.make_env)
    return {
        "widths": [spec.state_dim, spec.action_dim, spec.horizon],
        "returns": [None if math.isnan(number) else number for number in numbers],
        "score": described(spec.score),
        "environment": fingerprint(made),
        "sources": sorted({sha256(file) for file in _source_files(own)}) if own else [],
    }


def described(value: Any) -> Any:
    """Return what a function or value does, as JSON that is the same in each process.

    Of a function these are its code, defaults and closure, of a method its object, too; of a
    `functools.partial` its arguments; of another object its type and attributes.
    """
    if isinstance(value, CodeType):
        return [value.co_code.hex(), list(value.co_names), list(map(described, value.co_consts))]
    if isinstance(value, type | tuple | list | Mapping) or _is_plain(value):
        return _shown(value)
    if isinstance(value, partial):
        keywords = {name: described(given) for name, given in value.keywords.items()}
        return [described(value.func), list(map(described, value.args)), keywords]
    function = getattr(value, "__func__", value)
    code = getattr(function, "__code__", None)
    if code is None:
        return [_shown(type(value)), _attributes(value)]
    cells = list(map(_content, function.__closure__ or ()))
    more = [cells, function.__defaults__, function.__kwdefaults__]
    return [
        [function.__module__, function.__qualname__],
        described(code),
        _shown(more),
        _attributes(getattr(value, "__self__", None)),
    ]


def _attributes(value: Any) -> Any:
    return _shown(value if isinstance(value, type) else getattr(value, "__dict__", {}))


def _shown(value: Any, depth: int = 3) -> Any:
    """Return the numbers and texts in a value, and the types of what else it holds.

    They are those of mappings and sequences in each other, as deep as is told.
    """
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if _is_plain(value):
        return _plain(value)
    if isinstance(value, tuple | list) and depth:
        return [_shown(part, depth - 1) for part in value]
    if isinstance(value, Mapping) and depth:
        return {str(key): _shown(part, depth - 1) for key, part in value.items()}
    return _shown(type(value))


def _is_plain(value: Any) -> bool:
    if isinstance(value, type):
        return False
    known = Number | str | bytes | frozenset | set
    return value is None or isinstance(value, known) or hasattr(value, "tolist")


def _plain(value: Any) -> str:
    """Return numbers, texts and arrays in words; numpy's as Python's."""
    if isinstance(value, frozenset | set):
        return repr(sorted(map(_plain if all(map(_is_plain, value)) else _named, value)))
    return repr(value.tolist() if hasattr(value, "tolist") else value)


def _named(value: Any) -> str:
    return str(_shown(value, 0))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return None


def _source_files(own: OwnTask) -> Iterable[Path]:
    """Yield the files of a task's modules, without our own."""
    for name in {own.module, *map(_module, (own.make_env, own.spec.score)), _entry_point(own.spec)}:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and name.partition(".")[0] != "m3dt" and Path(file).is_file():
            yield Path(file)


def _module(function: Callable[..., Any] | Any) -> str:
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", ""))


def _entry_point(spec: TaskSpec) -> str:
    """Return the module of the environment behind a gymnasium id, or nothing."""
    if not spec.name.startswith(GYMNASIUM):
        return ""
    import gymnasium

    made = gymnasium.spec(spec.name.removeprefix(GYMNASIUM)).entry_point
    return made.partition(":")[0] if isinstance(made, str) else _module(made)
