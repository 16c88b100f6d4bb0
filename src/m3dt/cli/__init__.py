"""The command line."""

from m3dt.cli.main import main, run

__all__ = ["main", "run"]
