"""Figures of a run or a dataset, and the TensorBoard pages."""

from m3dt.plots.conflict_curve import conflict_curve
from m3dt.plots.datasets import coverage_figure, frame_sheet, return_figure, scale_figure
from m3dt.plots.heat_map import heat_map
from m3dt.plots.notebook import FigureView

__all__ = [
    "FigureView",
    "conflict_curve",
    "coverage_figure",
    "frame_sheet",
    "heat_map",
    "return_figure",
    "scale_figure",
]
