"""Files and folders: atomic writes, hashes, locks, staging and free space."""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from m3dt.utils.errors import UserError
from m3dt.utils.regular_files import regular_file

# Only a killed process leaves files with this suffix. They are never read and may be deleted.
TEMPORARY_SUFFIX = ".tmp"
_OUR_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}" + re.escape(TEMPORARY_SUFFIX))


def temporary_name(path: Path) -> Path:
    """Return a new hidden name in the folder of `path`; it is no longer than a disk allows."""
    return path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file name in the folder of `path`; on success, fsync and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        _settle(temporary)
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
            _settle(file)
        _fsync(temporary)
        _replace_folder(temporary, path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    """Rename a folder to `path`, whatever is there.

    The system cannot rename over a folder that is not empty, nor over something else.
    """
    if not os.path.lexists(path):
        os.replace(new, path)
        return
    old = temporary_name(path)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(old, path)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    else:  # a FIFO would be waited for, and a link's folder is not ours
        old.unlink()


def _settle(file: Path) -> None:
    """Bring a file to the disk, with the mode that the user's umask gives.

    Some writers create files that only their owner can read.
    """
    file.chmod(_new_file_mode())
    _fsync(file)


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

    Its subfolders are not searched. A minimum age in s spares what other processes write now. It is
    measured by the clock of the disk, since that of this machine may be wrong.
    """
    found = [p for p in folder.glob(f".*{TEMPORARY_SUFFIX}") if _OUR_TEMPORARY.fullmatch(p.name)]
    if found and older_than:
        newest = _disk_time(folder) - older_than
        found = [path for path in found if _changed(path) <= newest]
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _disk_time(folder: Path) -> float:
    """Return the time at which a file that is written now counts as changed."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0")
        file.flush()
        return os.fstat(file.fileno()).st_mtime


def _changed(path: Path) -> float:
    """Return when a file, or the newest file of a folder, was changed; infinity if it is gone."""
    try:
        return max(p.stat().st_mtime for p in (path, *path.glob("*")))
    except FileNotFoundError:
        return math.inf


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Report that a file cannot be read by the reason that the system gives.

    Such a file may be whole: nobody should be told that it is damaged.

    Raises:
        UserError: The system refuses.
    """
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise UserError(f"{place}: cannot be read ({error.strerror or error}).") from None


def exists(path: Path) -> bool:
    """Return whether there is a file or folder; a refusal of the system is an error, not a no."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read_json(path: Path, finite: bool = False) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: The system refuses to read it.
        ValueError: It is not JSON, or not all numbers are finite although they must be.
    """
    with reading(path):
        content = regular_file(path).read_bytes()
    return parse_json(content, finite)


def parse_json(content: str | bytes, finite: bool = False) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: It is not JSON, a whole number is too large for a float, or not all numbers are
            finite although they must be.
    """
    constant, number = (_refuse_constant, _finite_float) if finite else (None, None)
    try:
        return json.loads(
            content, parse_constant=constant, parse_float=number, parse_int=_bounded_int
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"holds {name}")


def _finite_float(digits: str) -> float:
    """Return a number unless it is beyond the range of floats, such as 1e999."""
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"holds {digits:.40}")
    return value


def _bounded_int(digits: str) -> int:
    if math.isinf(float(digits)):
        raise ValueError(f"holds a number of {len(digits)} digits")
    return int(digits)


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
    own = 0o600  # a lock must be readable to its owner, whatever the umask
    lock = FileLock(folder / ".lock", timeout=0, mode=_new_file_mode() | own)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another m3dt is writing here. Wait for it to end, or give another folder."
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{folder}: cannot be locked ({reason}). Give another folder.") from None
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


def free_space(folder: Path) -> int:
    """Return the free bytes on a folder's disk; the folder need not exist yet."""
    return shutil.disk_usage(nearest_existing(folder.absolute())).free


def nearest_existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    return next(p for p in (path, *path.parents) if p.exists())
