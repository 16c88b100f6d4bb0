"""Measurements of time and memory."""

from m3dt.bench.run import ROWS, bench

__all__ = ["ROWS", "bench"]
