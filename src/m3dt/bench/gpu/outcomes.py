"""What came of each check and each measurement: a failure is a result too."""

import traceback
from collections.abc import Callable, Iterable
from typing import Any, TypedDict

OK, DIFFERS, FAILED, NOT_MEASURED = "ok", "differs", "failed", "not measured"
NEEDS_GPU = "needs a CUDA device"

_LINES = 12  # of a traceback that is kept


class Outcome(TypedDict):
    """One check or measurement."""

    part: str  # such as "equality"
    name: str
    status: str  # `OK`, `DIFFERS`, `FAILED` or `NOT_MEASURED`
    measured: dict[str, Any]
    problem: str
    traceback: str  # its last lines


class Differs(Exception):
    """Two computations that should agree do not.

    Attributes:
        measured: By how much.
    """

    def __init__(self, measured: dict[str, Any]) -> None:
        super().__init__(", ".join(f"{key} {value}" for key, value in measured.items()))
        self.measured = measured


def attempt(part: str, name: str, function: Callable[[], dict[str, Any]]) -> Outcome:
    """Call a function that returns what it measured; turn what it raises into an outcome."""
    try:
        return outcome(part, name, OK, function())
    except Differs as difference:
        return outcome(part, name, DIFFERS, difference.measured, str(difference))
    except (Exception, SystemExit) as error:
        return failure(part, name, error)


def failure(part: str, name: str, error: BaseException) -> Outcome:
    """Return the outcome of an error."""
    lines = "".join(traceback.format_exception(error)).splitlines()[-_LINES:]
    problem = f"{type(error).__name__}: {error}".strip()
    return outcome(part, name, FAILED, problem=problem, trace="\n".join(lines))


def not_measured(part: str, name: str, reason: str) -> Outcome:
    """Return the outcome of what was not tried."""
    return outcome(part, name, NOT_MEASURED, problem=reason)


def not_passed(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the names of those that failed or differ."""
    return [f"{o['part']}: {o['name']}" for o in outcomes if o["status"] in (FAILED, DIFFERS)]


def outcome(
    part: str,
    name: str,
    status: str,
    measured: dict[str, Any] | None = None,
    problem: str = "",
    trace: str = "",
) -> Outcome:
    """Return an outcome."""
    return {
        "part": part,
        "name": name,
        "status": status,
        "measured": measured or {},
        "problem": problem,
        "traceback": trace,
    }
