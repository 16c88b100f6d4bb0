"""Folders to write to: locked, staged, writable, with enough free space."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from m3dt.utils.errors import UserError
from m3dt.utils.files import remove_temporaries, temporary_name


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lock a folder against other writing processes; create it if it does not exist.

    The operating system releases the lock when the process ends, even if it is killed.

    Raises:
        UserError: Another process holds the lock, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}). Give another folder."
        ) from None
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another m3dt is writing here. Wait for it to end, or give another folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`, from which the caller moves finished files into place.

    On exit, the folder is deleted with all files left in it. On entry, so are the leftovers of
    killed processes, so the caller must be the sole writer of `parent`.
    """
    remove_temporaries(parent)
    folder = temporary_name(parent / "staging")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(file: Path) -> None:
    """Check that a file can be written, before the work whose result it will hold.

    Raises:
        UserError: Its folder, or the nearest existing parent, cannot be written.
    """
    existing = _nearest_existing(file.absolute().parent)
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"{file}: cannot be written. Give another file.")


def free_space(folder: Path) -> int:
    """Return the free bytes on a folder's disk; the folder need not exist yet."""
    return shutil.disk_usage(_nearest_existing(folder.absolute())).free


def _nearest_existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())
