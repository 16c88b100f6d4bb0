"""Folders and files as a user writes them."""

import hashlib
import os
import re
from pathlib import Path

from m3dt.utils.errors import UserError


def user_path(written: str | Path) -> Path:
    """Return a path that a user wrote; `~` is a home folder, also where no shell has seen it.

    Settings, options and functions that take `str | Path` pass their paths through it. Functions
    that take a `Path` take it as it is.

    Raises:
        UserError: It is no path.
    """
    if not isinstance(written, str | Path):
        raise UserError(f"{written!r:.60} is no path: give text or a pathlib.Path")
    return Path(os.path.expanduser(written))


def file_stem(name: str, allowed: str = "A-Za-z0-9_.-") -> str:
    """Return a name with allowed characters only; other names have other stems.

    By default, these are what a file name without suffix may hold: `gym:a/B-v1` becomes
    `gym_a_B-v1-` and a digest of the name.
    """
    plain = re.sub(f"[^{allowed}]", "_", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
