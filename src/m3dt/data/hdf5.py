"""Open HDF5 files whose bytes all lie in the file itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from m3dt.utils.errors import UserError
from m3dt.utils.regular_files import regular_file


@contextmanager
def open_hdf5(path: Path, remedy: str, folder: Path | None = None) -> Iterator[h5py.File]:
    """Yield an HDF5 file opened for reading, without a lock.

    Soft and external links, virtual datasets and external storage are refused: their bytes lie
    elsewhere, and an offset would be applied to the wrong file.

    Args:
        path: The file.
        remedy: What to do about a damaged file, a sentence.
        folder: See `regular_file`.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It cannot be read, is damaged, or refers to other bytes. Errors of this kind
            from the body of the `with` statement become UserErrors too.
    """
    regular_file(path, folder)
    try:
        with h5py.File(path, "r", locking=False) as file:
            for _ in own_items(file):
                pass
            yield file
    except UserError:
        raise
    except OSError as error:
        if error.errno:  # the system refuses; the file may be sound
            raise UserError(f"{path}: cannot be read ({error}).") from None
        raise UserError(f"{path}: damaged or not an HDF5 file ({error}). {remedy}") from None
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: damaged or of another layout ({reason}). {remedy}") from None


def own_items(file: h5py.File) -> Iterator[Any]:
    """Yield all groups, datasets and types of a file, once each.

    h5py's own visitors turn some errors of damaged files into errors of the interpreter.

    Raises:
        ValueError: The bytes of an item lie elsewhere.
    """
    groups, seen = [file["/"]], set()
    while groups:
        group = groups.pop()
        for name in group:
            link = group.get(name, getlink=True)
            path = f"{group.name}/{name}".lstrip("/")
            if not isinstance(link, h5py.HardLink):
                kind = "an external" if isinstance(link, h5py.ExternalLink) else "a soft"
                raise ValueError(f"'{path}' is {kind} link")
            item = group[name]
            if isinstance(item, h5py.Dataset) and (item.is_virtual or item.external):
                kind = "a virtual dataset" if item.is_virtual else "stored in another file"
                raise ValueError(f"'{path}' is {kind}")
            address = h5py.h5o.get_info(item.id).addr
            if address not in seen:  # groups can contain each other
                seen.add(address)
                yield item
                if isinstance(item, h5py.Group):
                    groups.append(item)
