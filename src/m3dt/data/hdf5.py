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
            problem = file.visititems_links(lambda name, link: _elsewhere(file, name, link))
            if problem:
                raise ValueError(problem)
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


def _elsewhere(file: h5py.File, name: str, link: Any) -> str | None:
    """Return a message if the bytes behind a link lie elsewhere; this ends the visit of links."""
    if not isinstance(link, h5py.HardLink):
        kind = "an external" if isinstance(link, h5py.ExternalLink) else "a soft"
        return f"'{name}' is {kind} link"
    found = file[name]
    if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
        kind = "a virtual dataset" if found.is_virtual else "stored in another file"
        return f"'{name}' is {kind}"
    return None
