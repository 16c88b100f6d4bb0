"""Folders and files as a user writes them."""

import os
from pathlib import Path


def user_path(written: str | Path) -> Path:
    """Return a path that a user wrote; `~` is a home folder, also where no shell has seen it."""
    return Path(os.path.expanduser(written))
