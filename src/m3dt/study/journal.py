"""What the jobs of a study note as they run: one small file per cell, which `--status` reads."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from m3dt.study.grid import Study
from m3dt.utils.ending_signals import ENDING
from m3dt.utils.files import read_json, write_json

NOTES = ".progress"  # folder in that of a study's runs
_BEAT = 20.0  # seconds between two signs of life
_SILENCE = 180.0  # seconds without one after which a job is taken for dead; NFS may lag by a minute
_STOPPED = [sign * number + base for number in ENDING for sign, base in ((1, 128), (-1, 0))]


@dataclass
class Note:
    """A command that a job runs or ran for a cell.

    Attributes:
        command: `stage1`, `evaluate` and so on.
        step: Optimiser steps that were done when it began.
        began: When, in seconds since 1970.
        host: The machine.
        code: Its exit code; None while it runs, and if the job was killed.
        seen: When the file was changed last.
    """

    command: str
    step: int
    began: float
    host: str
    code: int | None = None
    seen: float = 0.0

    @property
    def running(self) -> bool:
        """Whether its job runs: it gave a sign of life lately."""
        return self.code is None and time.time() - self.seen < _SILENCE

    @property
    def failed(self) -> bool:
        """Whether it ended with an error, not by a signal that lets it go on later."""
        return self.code not in (None, 0, *_STOPPED)


@contextmanager
def noted(study: Study, cell: str, command: str, step: int) -> Iterator[Note]:
    """Note that a command of a cell runs, give signs of life, and note how it ended.

    The caller sets `code`, unless an exception ends the job. A note is only an aid: where it cannot
    be written, nothing else stops.
    """
    file = _file(study, cell)
    note = Note(command, step, time.time(), socket.gethostname())
    over = threading.Event()

    def live() -> None:
        while not over.wait(_BEAT):
            with suppress(OSError):
                os.utime(file)

    alive = threading.Thread(target=live, daemon=True)
    _write(file, note)
    alive.start()
    try:
        yield note
    except KeyboardInterrupt:
        note.code = 128 + signal.SIGINT
        raise
    except SystemExit as end:  # how a job ends by another signal
        note.code = end.code if isinstance(end.code, int) else 1
        raise
    except BaseException:
        note.code = 1
        raise
    finally:
        over.set()
        alive.join()
        _write(file, note)


def read_note(study: Study, cell: str) -> Note | None:
    """Return the last note about a cell, or None; one that cannot be read counts as none."""
    file = _file(study, cell)
    try:
        return Note(**{**read_json(file), "seen": file.stat().st_mtime})
    except (OSError, ValueError, TypeError):
        return None


def _file(study: Study, cell: str) -> Path:
    return study.runs / NOTES / f"{cell}.json"


def _write(file: Path, note: Note) -> None:
    with suppress(OSError):
        write_json(file, asdict(note))
