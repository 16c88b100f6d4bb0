"""The command line."""

from m3dt.cli.main import main

__all__ = ["main"]
