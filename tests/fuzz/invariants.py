"""Run a command, here or as a process, and hold it to what every command promises.

1. Its exit code is one of seven.
2. It ends within its time, without a traceback, and an error is one message.
3. What it calls done is done: `checks.py` says what that means for each result.
"""

import faulthandler
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field

from m3dt.cli import main

CODES = {0, 1, 2, 129, 130, 143}
ENDINGS = {-signal.SIGHUP: 129, -signal.SIGINT: 130, -signal.SIGTERM: 143}  # as shells say it
UNWANTED = (
    "Traceback (most recent call last)", "m3dt: unexpected", "Exception ignored", "Segmentation",
    "core dumped",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    words: list[str]
    code: int
    out: str
    err: str

    @property
    def messages(self):
        """The lines that say why it failed."""
        return [line for line in self.err.splitlines() if line.startswith("m3dt: ")]


class Hang(BaseException):
    """A case took longer than it may; nothing that catches errors catches it."""


@dataclass
class Surroundings:
    """What a process is started with; strategies change it.

    Attributes:
        variables: Of the environment; None removes one.
        prepare: Functions that are called in the process before it becomes the command.
        limits: The same, after all of those, which may need what is limited.
        wrapper: Words that go before the command.
        folder: The working directory.
        temporary: Where strategies make folders.
        signal: A signal, and after how many seconds of work it is sent.
        stdout: A file to print to, instead of one that is read.
        heard: Whether what is printed to the standard error stream can be read.
    """

    variables: dict = field(default_factory=dict)
    prepare: list = field(default_factory=list)
    limits: list = field(default_factory=list)
    wrapper: list = field(default_factory=list)
    folder: str | None = None
    temporary: str | None = None
    signal: tuple | None = None
    stdout: str | None = None
    heard: bool = True


def run_here(*words):
    """Run a command in this process, and return its outcome, which keeps the first two promises."""
    out, err, words = io.StringIO(), io.StringIO(), [str(word) for word in words]
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
    except SystemExit as leaving:
        code = leaving.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return kept(Outcome(words, code, out.getvalue(), err.getvalue()))


@contextmanager
def at_most(seconds):
    """Raise an error in a block that takes longer; blocks may lie within each other."""

    def end(*arguments):
        raise Hang

    before = signal.signal(signal.SIGALRM, end)
    outer, started = signal.alarm(seconds), time.monotonic()
    if not outer:
        faulthandler.dump_traceback_later(seconds + 60, exit=True, file=sys.__stderr__)
    try:
        yield
    except Hang as hang:
        raise AssertionError(f"it took more than {seconds} s") from hang
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        if outer:  # its time goes on
            signal.alarm(max(1, outer - int(time.monotonic() - started)))
        else:
            faulthandler.cancel_dump_traceback_later()


def run_command(*words, surroundings=None, seconds=180):
    """Run a command as a process, and return its outcome, which keeps the first two promises."""
    around, words = surroundings or Surroundings(), [str(word) for word in words]
    changed = {**os.environ, "OMP_NUM_THREADS": "1", **around.variables}
    environment = {name: value for name, value in changed.items() if value is not None}

    def prepare():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a shell may ignore some
            signal.signal(number, signal.SIG_DFL)
        for change in (*around.prepare, *around.limits):
            change()

    with tempfile.TemporaryFile() as own, tempfile.TemporaryFile() as err:
        out = open(around.stdout, "wb") if around.stdout else own
        process = subprocess.Popen(
            [*around.wrapper, sys.executable, "-m", "m3dt", *words],
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd=around.folder,
            preexec_fn=prepare, start_new_session=True,
        )  # fmt: skip
        try:
            if around.signal:
                _send(process, *around.signal)
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise AssertionError(f"more than {seconds} s: {words} {around}") from None
        finally:
            if out is not own:
                out.close()
        printed = []
        for file in (own, err):
            file.seek(0)
            printed.append(file.read().decode(errors="replace"))
    return kept(Outcome(words, ENDINGS.get(code, code), *printed), around)


def _send(process, number, delay):
    """Send a signal once the process handles signals, which it does before it imports anything."""
    caught = 0
    while process.poll() is None and not caught >> (signal.SIGTERM - 1) & 1:
        with open(f"/proc/{process.pid}/status") as status:
            lines = [line for line in status if line.startswith("SigCgt")]
        caught = int(lines[0].split()[1], 16) if lines else 0
        time.sleep(0.005)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(number)


def kept(outcome, around=None):
    """Return an outcome after checking that it keeps the first two promises."""
    told = (outcome, around)
    assert outcome.code in CODES, told
    assert not [word for word in UNWANTED if word in outcome.out + outcome.err], told
    usage = outcome.err.startswith("usage: ") and outcome.code == 2
    if outcome.code == 0:
        assert not outcome.messages, told
    elif outcome.code in (1, 2) and not usage and (around is None or around.heard):
        assert len(outcome.messages) == 1, told
    return outcome
