"""Figures from arrays; no figure knows where its numbers come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

_MAX_LABELS = 40  # along an axis


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    x_label: str,
) -> Figure:
    """Draw a matrix with named rows and columns.

    Args:
        values: (rows, columns).
        rows: Names of the rows.
        columns: Names of the columns.
        title: Stands above.
        x_label: What the columns are.
    """
    height = min(1.2 + 0.22 * len(rows), 24)
    figure = Figure(figsize=(3.5 + min(0.3 * len(columns), 9), height), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, aspect="auto", cmap="viridis", interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x_label, fontsize=8)
    every = -(-len(columns) // _MAX_LABELS * 4) or 1
    axes.set_xticks(
        range(0, len(columns), every), [columns[i] for i in range(0, len(columns), every)]
    )
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(labelsize=7)
    figure.colorbar(image, ax=axes).ax.tick_params(labelsize=7)
    return figure
