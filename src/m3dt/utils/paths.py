"""Folders and files as a user writes them."""

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
    """Return a name as a file name without suffix: `gym:a/B-v1` becomes `gym_a_B-v1`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
