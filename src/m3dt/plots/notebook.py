"""Figures in a notebook, with any plotting back end."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

_DOTS_PER_INCH = 90


class FigureView:
    """A figure that a notebook shows as PNG."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
        return buffer.getvalue()
