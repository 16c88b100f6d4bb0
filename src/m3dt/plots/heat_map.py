"""Heat maps of matrices with named rows and columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_MAX_COLUMN_LABELS = 12
_MAX_ANNOTATED = 12  # most columns with which cells show their values


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    x_label: str,
    borders: Sequence[int] = (),
) -> Figure:
    """Draw a matrix with named rows and columns.

    Args:
        values: (rows, columns).
        rows: Names of the rows.
        columns: Names of the columns.
        title: Title of the figure.
        x_label: Label of the columns.
        borders: Indices before which lines divide the rows and columns of a square matrix.
    """
    height = min(1.4 + 0.3 * len(rows), 24)
    figure = Figure(figsize=(3.5 + min(0.55 * len(columns), 9), height), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, aspect="auto", cmap="viridis", interpolation="nearest")
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x_label, fontsize=10)
    every = -(-len(columns) // _MAX_COLUMN_LABELS)
    shown = range(0, len(columns), every)
    axes.set_xticks(shown, [columns[i] for i in shown])
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(labelsize=9)
    for border in borders:
        axes.axhline(border - 0.5, color="white", linewidth=1)
        axes.axvline(border - 0.5, color="white", linewidth=1)
    if len(columns) <= _MAX_ANNOTATED:
        _annotate(axes, values)
    figure.colorbar(image, ax=axes).ax.tick_params(labelsize=9)
    return figure


def _annotate(axes: Axes, values: np.ndarray) -> None:
    middle = (values.max() + values.min()) / 2
    for (row, column), value in np.ndenumerate(values):
        color = "black" if value > middle else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
