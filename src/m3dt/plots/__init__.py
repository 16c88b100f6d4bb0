"""Figures of a run or a dataset, and the TensorBoard pages."""

from m3dt.plots.dataset_figures import coverage_figure, frame_sheet, return_figure, scale_figure
from m3dt.plots.run_figures import FigureView, conflict_curve, heat_map

__all__ = [
    "FigureView",
    "conflict_curve",
    "coverage_figure",
    "frame_sheet",
    "heat_map",
    "return_figure",
    "scale_figure",
]
