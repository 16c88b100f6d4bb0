"""The command line's entry: parse, run, and turn errors into one message and an exit code."""

from __future__ import annotations

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

# Folders that cannot be written, full disks: told in a line, without a traceback.
_NOT_OUR_FAULT = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EISDIR, errno.ENOSPC, errno.ENOTDIR,
    errno.EPERM, errno.EROFS
}  # fmt: skip


def _end(number: int, frame: FrameType | None) -> None:
    """Leave by way of every `finally`, which is how files stay whole and workers end."""
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 the user's input is wrong, 1 the rest."""
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse gives up on overrides that follow an option; here they may stand anywhere.
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)
    # Libraries that announce themselves on import would drown our own words.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        options.command(options, make_console())
    except UserError as error:
        print(f"m3dt: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"m3dt: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in _NOT_OUR_FAULT:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"m3dt: {where}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "m3dt: interrupted; nothing is half-written, and the same command goes on.",
            file=sys.stderr,
        )
        return 130
    return 0
