"""Entry point: parse, run, and turn errors into one message and an exit code."""

import argparse
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from m3dt.utils.ending_signals import ENDING
from m3dt.utils.errors import RunError, UnknownTask, UserError, is_out_of_memory

_SHOW_TRACEBACK = "M3DT_TRACEBACK"
_INTERRUPTED = "interrupted; no file is damaged, and the same command continues."
_signals: list[int] = []  # those that asked the running command to end
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # read by Lightning


def run() -> NoReturn:
    """Run this process's command and exit. Signals that come during the exit change nothing."""
    try:
        code = main()
    finally:  # an option's mistake or a signal raises SystemExit
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 wrong input, 1 any other error."""
    try:
        _signals.clear()
        if threading.current_thread() is threading.main_thread():
            _take_signals()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no messages of libraries on import
        if "matplotlib" not in sys.modules:  # whose import refuses a back end that it does not know
            os.environ["MPLBACKEND"] = "agg"  # commands open no windows
        return _run(arguments)
    except KeyboardInterrupt:
        return _fail(_INTERRUPTED, 130)
    except Exception as error:
        if _signals:  # what it raised came out of an import or a foreign library as another error
            return _fail(_INTERRUPTED, 128 + _signals[-1])
        if isinstance(error, UserError | RunError):
            return _fail(str(error), 2 if isinstance(error, UserError) else 1)
        if os.environ.get(_SHOW_TRACEBACK):
            raise
        return _fail(*_foreign(error))


def _run(arguments: Sequence[str] | None) -> int:
    from m3dt.utils.console import make_console, replace_unprintable
    from m3dt.utils.output_files import STANDARD_OUTPUT

    _open_closed_streams()
    replace_unprintable(sys.stdout, sys.stderr)
    _check_surroundings()
    try:
        options = _parse(arguments)
        result_is_printed = STANDARD_OUTPUT in vars(options).values()
        options.command(options, make_console(stderr=result_is_printed))
    except UnknownTask as error:
        raise UserError(f"{error}{_importing(options)}") from error
    except SystemExit as leaving:
        if leaving.code:
            raise  # else the help was printed
    sys.stdout.flush()  # what cannot be printed is an error of ours, not of Python's exit
    return 0


def _importing(options: argparse.Namespace) -> str:
    """Return how a command is told to import a module, if it can be."""
    if hasattr(options, "plugins"):
        return " Name it: --plugins MODULE."
    return " Name it: plugins=[MODULE]." if hasattr(options, "overrides") else ""


def _open_closed_streams() -> None:
    """Give closed standard streams the null device, so that no file of data takes their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _check_surroundings() -> None:
    """Refuse what would end the process inside MKL, without a word, or inside Lightning's import.

    Raises:
        UserError: The working directory was deleted, or a launcher's variable holds no rank.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"the working directory cannot be read ({error.strerror}). Change to another folder."
        ) from None
    for name in _RANKS:
        if not re.fullmatch(r"\s*[+-]?\d+\s*", os.environ.get(name, "0")):
            raise UserError(
                f"{name} is '{os.environ[name]}' in the environment, which is no rank. Unset it, "
                "or let a launcher set it."
            )


def _foreign(error: Exception) -> tuple[str, int]:
    """Return one message about an error that is not ours, and the exit code."""
    if is_out_of_memory(error):
        first = str(error).strip().splitlines() or [""]
        return f"not enough memory. Choose a smaller model or batch. ({first[0]})", 1
    if isinstance(error, BrokenPipeError):
        return "the output was closed before its end.", 1
    if isinstance(error, OSError) and error.strerror:  # of files, folders, disks
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 2
    frame = traceback.extract_tb(error.__traceback__)[-1]
    last = (str(error).strip().splitlines() or [""])[-1]
    return (
        f"unexpected {type(error).__name__}: {last} ({os.path.basename(frame.filename)}, line "
        f"{frame.lineno}). The same command with {_SHOW_TRACEBACK}=1 shows where it arose.",
        1,
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; overrides may follow options, which argparse alone does not allow."""
    from m3dt.cli.forms import check_forms
    from m3dt.cli.parser import COMMANDS, make_parser

    parser = make_parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        words = ["--help"]
    check_forms(words, {c.name: {n for names, _ in c.arguments for n in names} for c in COMMANDS})
    options, rest = parser.parse_known_args(words)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def _fail(message: str, code: int) -> int:
    if sys.stderr:
        with suppress(OSError):
            print(f"m3dt: {message}", file=sys.stderr, flush=True)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # Python would try again as it exits, and print a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _take_signals() -> None:
    """Take the signals that ask a process to end, unless they are ignored, as under `nohup`."""
    signal.signal(signal.SIGTERM, _exit)
    for number in ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    """Exit through every `finally`, so that files stay whole and workers end."""
    _signals.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
