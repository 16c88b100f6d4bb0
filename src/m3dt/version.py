"""The versions of this package and of others, readable without importing torch."""

from importlib import metadata

__version__ = "0.2.0"


def version_of(package: str) -> str:
    """Return a package's version. m3dt's own is known even where it runs from a source tree.

    Raises:
        PackageNotFoundError: The package is not installed.
    """
    return __version__ if package == "m3dt" else metadata.version(package)
