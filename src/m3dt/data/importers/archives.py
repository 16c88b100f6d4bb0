"""Open zip archives that cannot grow beyond what an import may hold in memory."""

import zipfile
from pathlib import Path

from m3dt.utils.regular_files import regular_file

LARGEST_EPISODE = 2**26
"""Bytes that one episode may take; 500 steps of the widest task take 200 kB."""


def check_sizes(path: Path, largest: int) -> list[str]:
    """Return the names in an archive after comparing its unpacked size with a limit in bytes.

    Raises:
        ValueError: It is larger. A few kilobytes can unpack to gigabytes.
        UserError: It is no regular file.
    """
    with zipfile.ZipFile(regular_file(path)) as archive:
        size = sum(info.file_size for info in archive.infolist())
        if size > largest:
            raise ValueError(f"it unpacks to {size:,} bytes, more than {largest:,}")
        return archive.namelist()
