"""`python -m m3dt`."""

from m3dt.cli import run

run()
