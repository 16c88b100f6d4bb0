"""The errors that end a command with one message instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Wrong user input (exit code 2). The message says what, where and the remedy."""


class RunError(RuntimeError):
    """Work that had to stop although the input was valid (exit code 1)."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the choice closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
