"""Measurements of time and memory."""

from m3dt.bench.benchmark import ROWS, bench

__all__ = ["ROWS", "bench"]
