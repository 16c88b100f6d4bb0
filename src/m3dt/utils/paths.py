"""Folders and files as a user writes them."""

import hashlib
import os
import re
from pathlib import Path


def user_path(written: str | Path) -> Path:
    """Return a path that a user wrote; `~` is a home folder, also where no shell has seen it.

    Settings, options and functions that take `str | Path` pass their paths through it. Functions
    that take a `Path` take it as it is.
    """
    return Path(os.path.expanduser(written))


def file_stem(name: str) -> str:
    """Return a name as a file name without suffix; other names have other stems.

    `gym:a/B-v1` becomes `gym_a_B-v1-` and a digest of the name.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
