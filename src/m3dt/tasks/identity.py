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

    Of a function these are its code, defaults and closure; of a `functools.partial` its arguments,
    too; of another object its type and attributes.
    """
    if isinstance(value, tuple | list):
        return [described(part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): described(part) for key, part in value.items()}
    if isinstance(value, CodeType):
        return [value.co_code.hex(), list(value.co_names), described(value.co_consts)]
    if _is_plain(value):
        return _plain(value)
    if isinstance(value, partial):
        return [described(value.func), described(value.args), described(value.keywords)]
    code = getattr(value, "__code__", None)
    if code is not None:
        more = [
            list(map(_content, value.__closure__ or ())),
            value.__defaults__,
            value.__kwdefaults__,
        ]
        return [value.__module__, value.__qualname__, described(code), _shallow(more)]
    kind = value if isinstance(value, type) else type(value)
    named = [kind.__module__, kind.__qualname__]
    return named if value is kind else [*named, _shallow(getattr(value, "__dict__", {}))]


def _shallow(value: Any) -> Any:
    """Return the numbers and texts in a value, and the types of what else it holds."""
    if isinstance(value, tuple | list):
        return [_shallow(part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): _shallow(part) for key, part in value.items()}
    return _plain(value) if _is_plain(value) else type(value).__qualname__


def _is_plain(value: Any) -> bool:
    known = Number | str | bytes | frozenset | set
    return value is None or isinstance(value, known) or hasattr(value, "tolist")


def _plain(value: Any) -> str:
    """Return numbers, texts and arrays in words; numpy's as Python's."""
    if isinstance(value, frozenset | set):
        return repr(sorted(map(repr, value)))
    return repr(value.tolist() if hasattr(value, "tolist") else value)


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
