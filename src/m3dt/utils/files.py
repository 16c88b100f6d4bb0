"""Files and folders: atomic writes, hashes, locks, staging and free space."""

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

# Only a killed process leaves files with this suffix. They are never read and may be deleted.
TEMPORARY_SUFFIX = ".tmp"
_OUR_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}" + re.escape(TEMPORARY_SUFFIX))


def temporary_name(path: Path) -> Path:
    """Return a new hidden name in the folder of `path`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file name in the folder of `path`; on success, fsync and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        temporary.chmod(_new_file_mode())  # some writers create files that only the owner can read
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def link_file(source: Path, path: Path) -> None:
    """Give a file a second name, atomically; copy it where the disk has no hard links."""
    with atomic_path(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; on success, fsync its files and rename it.

    An existing folder at `path` is replaced in two renames: a kill between them leaves no folder
    at `path`, but never a mixture of both.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            _fsync(file)
        _fsync(temporary)
        _replace_folder(temporary, path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    """Rename a folder to `path`. The system cannot rename over a folder that is not empty."""
    if not path.exists():
        os.replace(new, path)
        return
    old = temporary_name(path)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old)


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


def remove_temporaries(folder: Path, older_than: float = 0.0) -> None:
    """Delete the half-written files and folders that killed processes left in `folder`.

    Its subfolders are not searched. A minimum age in s spares what other processes write now.
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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a trailing newline, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Return the hex SHA-256 of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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
