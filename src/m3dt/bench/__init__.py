"""Benchmarks: time and memory of training, data and acting."""

from m3dt.bench.benchmark import ROWS, bench

__all__ = ["ROWS", "bench"]
