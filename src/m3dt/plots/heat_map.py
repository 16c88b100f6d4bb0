"""Matrices with named rows and columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

_MAX_COLUMN_LABELS = 12
_MAX_ANNOTATED = 12  # columns up to which every cell shows its value


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
        title: Stands above.
        x_label: What the columns are.
        borders: Rows and columns before which lines part a square matrix.
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
        middle = (values.max() + values.min()) / 2
        for (row, column), value in np.ndenumerate(values):
            color = "black" if value > middle else "white"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color
            )
    figure.colorbar(image, ax=axes).ax.tick_params(labelsize=9)
    return figure
