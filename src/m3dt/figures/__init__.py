"""Figures from arrays and results; none of them computes what it shows."""

from m3dt.figures.claims import claims, claims_table
from m3dt.figures.curves import conflict_curve
from m3dt.figures.datasets import coverage_figure, frame_sheet, return_figure, scale_figure
from m3dt.figures.matrices import heat_map
from m3dt.figures.pages import PAGES, TABLES, write_pages
from m3dt.figures.results import Results
from m3dt.figures.show import Shown, Told

__all__ = [
    "PAGES",
    "TABLES",
    "Results",
    "Shown",
    "Told",
    "claims",
    "claims_table",
    "conflict_curve",
    "coverage_figure",
    "frame_sheet",
    "heat_map",
    "return_figure",
    "scale_figure",
    "write_pages",
]
