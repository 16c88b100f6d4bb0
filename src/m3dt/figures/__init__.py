"""Figures from arrays and results; none of them computes what it shows."""

from m3dt.figures.datasets import coverage_figure, frame_sheet, return_figure, scale_figure
from m3dt.figures.matrices import heat_map

__all__ = ["coverage_figure", "frame_sheet", "heat_map", "return_figure", "scale_figure"]
