"""Writing files so that a reader sees the old content or the new, never a part of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from m3dt.utils.errors import UserError

# Left behind by a killed process, files of this suffix are never read and may be deleted.
TEMPORARY_SUFFIX = ".tmp"
_OUR_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}" + re.escape(TEMPORARY_SUFFIX))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new_file_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`; on success fsync it and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        temporary.chmod(_new_file_mode())  # some writers keep what they write to themselves
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success fsync its files and rename it to `path`.

    A folder that stands at `path` already is replaced, by two renames: a kill between them leaves
    neither, never a mixture.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            _fsync(file)
        _fsync(temporary)
        if path.exists():
            # A folder cannot be renamed over a full one: move the old one aside first.
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
            os.replace(path, old)
            try:
                os.replace(temporary, path)
            except BaseException:
                os.replace(old, path)
                raise
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder, created if need be, against other processes that would write to it.

    The system lets go of it when the process ends, however it ends.

    Raises:
        UserError: Another process holds it, or it cannot be written.
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
    """Yield a new folder in `parent` whose files the caller moves to their places.

    What stays in it is deleted, and so is what a killed process left of an earlier one. The caller
    is the parent's sole writer.
    """
    remove_temporaries(parent)
    folder = parent / f".staging.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(file: Path) -> None:
    """Refuse a file that could not be written in the end, before the work that it is to hold.

    Raises:
        UserError: Its folder, or the one that would hold that, cannot be written.
    """
    folder = file.absolute().parent
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"{file}: cannot be written. Give another file.")


def free_space(folder: Path) -> int:
    """Return the bytes that can still be written to a folder, which need not exist yet."""
    folder = folder.absolute()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    return shutil.disk_usage(existing).free


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a trailing newline, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Return a hex SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def remove_temporaries(folder: Path, older_than: float = 0.0) -> None:
    """Delete what a killed process left half-written in `folder` (not below it).

    Args:
        folder: Where it lies.
        older_than: Seconds; where others write at the same time, theirs is younger.
    """
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        if not _OUR_TEMPORARY.fullmatch(path.name):
            continue
        if older_than and time.time() - path.stat().st_mtime < older_than:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
