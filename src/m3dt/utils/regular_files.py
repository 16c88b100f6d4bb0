"""The one check that precedes opening a file which somebody else may have put there."""

import stat
from pathlib import Path

from m3dt.utils.errors import UserError

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def regular_file(path: Path, folder: Path | None = None) -> Path:
    """Return `path` after checking that it is a file which can be opened and read to its end.

    Opening a FIFO waits for its writer, and a device may have no end. With `folder`, the file must
    lie in it once links are followed.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It is no regular file, lies outside the folder, or the system refuses to open it.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        inside = folder is None or path.resolve().is_relative_to(folder.resolve())
        if kind == stat.S_IFREG and inside:
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RuntimeError) as error:  # a null byte; links in a circle
        raise UserError(f"{path}: cannot be read ({error}).") from None
    if kind != stat.S_IFREG:
        raise UserError(f"{path}: is {_KINDS.get(kind, 'something else')}, not a regular file.")
    if not inside:
        raise UserError(f"{path}: lies outside {folder}. Copy it into this folder.")
    return path
