"""Numbers that a user's code gives to a function."""

import math
import operator
from contextlib import suppress
from typing import Any

from m3dt.utils.errors import UserError


def whole_number(what: str, value: Any) -> int:
    """Return a whole number, also one of numpy's.

    Raises:
        UserError: It is something else; the message begins with `what`.
    """
    if not isinstance(value, bool):
        with suppress(TypeError):
            return operator.index(value)
    raise UserError(f"{what}={value!r:.60} must be a whole number")


def finite_number(what: str, value: Any) -> float:
    """Return a number, also one of numpy's.

    Raises:
        UserError: It is something else, or not finite; the message begins with `what`.
    """
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{what}={value!r:.60} must be a finite number")
    return number
