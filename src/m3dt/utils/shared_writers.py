"""Processes, also of several machines, that write parts of one folder at the same time.

Each holds `.lock` shared, which `sole_writer` holds alone, and a lock for each of its parts in the
folder `.locks`. The last one to leave deletes that folder.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from m3dt.utils.errors import UserError
from m3dt.utils.files import remove_temporaries, sole_writer
from m3dt.utils.paths import file_stem

_LOCKS = ".locks"
_PATIENCE = 10.0  # seconds; a process that tidies up holds the whole folder for a moment


@contextmanager
def shared_writer(folder: Path, parts: Sequence[str]) -> Iterator[None]:
    """Lock parts of a folder against other processes; create the folder if it does not exist.

    The operating system releases the locks when the process ends, even if it is killed.

    Args:
        folder: Which no `sole_writer` may hold.
        parts: Names of what this process writes, such as tasks.

    Raises:
        UserError: Another process holds the folder or a part, or the folder cannot be written.
    """
    _tidy(folder)
    with ExitStack() as held:
        held.enter_context(_shared(folder))
        (folder / _LOCKS).mkdir(exist_ok=True)
        for part in parts:
            held.enter_context(_part(folder, part))
        yield
    _tidy(folder)


@contextmanager
def common_file(folder: Path) -> Iterator[None]:
    """Let one shared writer after the other change a file that all of them write."""
    with FileLock(folder / _LOCKS / ".common"):
        yield


def _tidy(folder: Path) -> None:
    """Delete what killed processes left, unless others write here."""
    with suppress(UserError), sole_writer(folder):
        remove_temporaries(folder)
        shutil.rmtree(folder / _LOCKS, ignore_errors=True)


@contextmanager
def _shared(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}). Give another folder."
        ) from None
    try:
        _wait_for(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, folder: Path) -> None:
    """Take a lock that others may share, after those that tidy up."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{folder}: another m3dt is writing here, all of it. Wait for it to end, or "
                    "give another folder."
                ) from None
            time.sleep(0.05)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be locked ({error.strerror}). Give another folder."
            ) from None


@contextmanager
def _part(folder: Path, part: str) -> Iterator[None]:
    lock = FileLock(folder / _LOCKS / file_stem(part), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another m3dt is writing {part} here: the same shard, or one of another "
            "number of shards. Wait for it to end."
        ) from None
    try:
        yield
    finally:
        lock.release()
