"""Files that a user names for output: written whole, or written through where they are no files."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, nearest_existing

STANDARD_OUTPUT = Path("-")


def check_output(path: Path) -> None:
    """Check that an output can be written, before the work whose result it will hold.

    Raises:
        UserError: It is a folder, or it or its folder cannot be written.
    """
    if path == STANDARD_OUTPUT:
        return
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder. Give the name of a file.")
        place = path if is_stream(path) else nearest_existing(path.resolve().parent)
        writable = os.access(place, os.W_OK) and (place == path or place.is_dir())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}).") from None
    if not writable:
        raise UserError(f"{path}: cannot be written. Give another file.")


def write_output(path: Path, text: str) -> None:
    """Write text to an output.

    `-` is the standard output. Pipes and devices are written through and stay what they are. A
    file is replaced atomically; a link to it stays a link.

    Raises:
        UserError: It cannot be written.
    """
    check_output(path)
    try:
        if path == STANDARD_OUTPUT or _is_standard_output(path):
            sys.stdout.write(text)
            sys.stdout.flush()
        elif is_stream(path):
            with path.open("w") as stream:
                stream.write(text)
        else:
            with atomic_path(path.resolve()) as temporary, temporary.open("w", newline="") as file:
                file.write(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}).") from None


def output_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON to an output; see `write_output`."""
    write_output(path, json.dumps(value, indent=2) + "\n")


def is_stream(path: Path) -> bool:
    """Tell whether an output is the standard output, a pipe or a device."""
    if path == STANDARD_OUTPUT:
        return True
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_standard_output(path: Path) -> bool:
    """Tell whether a path such as `/dev/stdout` leads to where this process prints."""
    try:
        return path.samefile(f"/dev/fd/{sys.stdout.fileno()}")
    except (OSError, ValueError):  # there is nothing at the path, or no standard output
        return False
