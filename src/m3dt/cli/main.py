"""Entry point: parse, run, and turn errors into one message and an exit code."""

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from m3dt.cli.parser import make_parser
from m3dt.utils.console import make_console
from m3dt.utils.errors import RunError, UserError

# Full disks and folders that cannot be written: one message, no traceback.
_ENVIRONMENT_ERRORS = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EISDIR, errno.ENOSPC, errno.ENOTDIR,
    errno.EPERM, errno.EROFS
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 wrong input, 1 any other error."""
    options = _parse(arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _exit)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no messages of libraries on import
    try:
        options.command(options, make_console())
    except UserError as error:
        return _fail(str(error), 2)
    except RunError as error:
        return _fail(str(error), 1)
    except OSError as error:
        if error.errno not in _ENVIRONMENT_ERRORS:
            raise
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; no file is damaged, and the same command continues.", 130)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; overrides may follow options, which argparse alone does not allow."""
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def _fail(message: str | None, code: int) -> int:
    print(f"m3dt: {message}", file=sys.stderr)
    return code


def _exit(number: int, frame: FrameType | None) -> None:
    """Exit through every `finally`, so that files stay whole and workers end."""
    raise SystemExit(128 + number)
