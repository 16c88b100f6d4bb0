"""The errors that end a command with one message instead of a traceback."""

import difflib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_ALLOCATION = (
    "DefaultCPUAllocator",
    "Storage size calculation overflowed",
    "out of memory",
    "Maximum allowed dimension exceeded",
    "array is too big",
)

_LONGEST = 60  # characters of a list or a mapping in a message


class UserError(ValueError):
    """Wrong user input (exit code 2). The message says what, where and the remedy."""


class UnknownTask(UserError):
    """A name of no known task, perhaps of a user's own whose module was not imported."""


class RunError(RuntimeError):
    """Work that had to stop although the input was valid (exit code 1)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocation failed; torch and numpy have several errors for it."""
    text = str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | ValueError | OverflowError) and any(
        words in text for words in _ALLOCATION
    )


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the choice closest to `name`, or an empty string."""
    close = difflib.get_close_matches(str(name), list(choices), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def shortened(value: Any) -> str:
    """Return a value as a message shows it: of long lists and mappings the start, others whole."""
    text = str(value)
    whole = isinstance(value, str | int | float) or len(text) <= _LONGEST
    return text if whole else f"{text[:_LONGEST]}..."


@contextmanager
def others_code(what: str) -> Iterator[None]:
    """Turn any exception of a user's code into one message that says what raised it, and where.

    Raises:
        RunError: The code raised something that is no error of m3dt.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        words = " ".join(str(error).split())
        raise RunError(
            f"{what} raised {type(error).__name__}: {words} ({frame.filename}, line {frame.lineno})"
        ) from error
