"""Figures of a run: heat maps and the conflict during training; how a notebook shows figures."""

import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from m3dt.plots.palette import BLUE, GREEN, GREY, RED

_MAX_COLUMN_LABELS = 12
_MAX_ANNOTATED = 12  # most columns with which cells show their values
_DOTS_PER_INCH = 90


class FigureView:
    """A figure that a notebook shows as PNG, with any plotting back end."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def __repr__(self) -> str:
        return "a figure"  # an address would change whenever a notebook is executed

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
        return buffer.getvalue()


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    x_label: str,
    even: float | None = None,
    outlined: Sequence[int | None] = (),
) -> Figure:
    """Draw a matrix, (rows, columns), with named rows and columns.

    Args:
        values: The matrix.
        rows: Names of its rows.
        columns: Names of its columns.
        title: Title of the figure.
        x_label: What the columns are.
        even: Value in the middle of the colours, which reach from 0 to twice this value: the same
            in all pictures of a matrix. By default they follow the values.
        outlined: Of each row the column whose cell gets a frame, or None.
    """
    height = min(1.4 + 0.3 * len(rows), 24)
    figure = Figure(figsize=(3.5 + min(0.55 * len(columns), 9), height), layout="constrained")
    axes = figure.add_subplot()
    colors: dict[str, Any] = {"cmap": "viridis"}
    if even is not None:
        colors = {"cmap": "RdBu_r", "norm": CenteredNorm(even, even)}
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **colors)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x_label, fontsize=10)
    every = -(-len(columns) // _MAX_COLUMN_LABELS)
    shown = range(0, len(columns), every)
    axes.set_xticks(shown, [columns[i] for i in shown])
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(labelsize=9)
    if len(columns) <= _MAX_ANNOTATED:
        _write_values(axes, values, even)
    for row, column in enumerate(outlined):
        if column is not None:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, linewidth=1.8, edgecolor="black"))
    extend = "max" if even is not None and values.max() > 2 * even else "neither"
    figure.colorbar(image, ax=axes, extend=extend).ax.tick_params(labelsize=9)
    return figure


def _write_values(axes: Axes, values: np.ndarray, even: float | None) -> None:
    middle = (values.max() + values.min()) / 2
    for (y, x), value in np.ndenumerate(values):
        dark = value <= middle if even is None else abs(value - even) > 0.6 * even
        color = "white" if dark else "black"
        axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)


def agreement_figure(
    gram: np.ndarray, order: Sequence[int], sizes: Sequence[int], names: Sequence[str]
) -> Figure:
    """Draw how the tasks' gradients agree, and the distances by which K-means groups the tasks.

    Args:
        gram: Inner products of the tasks' agreement vectors, (N, N).
        order: The N tasks, group by group.
        sizes: Number of tasks of each group, in that order.
        names: Names of the N tasks.
    """
    lengths = np.diag(gram)
    norms = np.sqrt(np.clip(lengths, 1e-30, None))
    distances = np.sqrt(np.clip(lengths[:, None] + lengths - 2 * gram, 0, None))
    distances /= distances.max() or 1.0
    side = min(max(0.24 * len(order), 2.5), 20)
    figure = Figure(figsize=(2 * side + 4.5, side + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values, title, colors in (
        (left, gram / norms[:, None] / norms, "agreement of gradients: cosine",
         {"cmap": "RdBu_r", "norm": CenteredNorm(0, 1)}),
        (right, distances, "K-means' distance, largest = 1", {"cmap": "viridis_r", "vmin": 0}),
    ):  # fmt: skip
        image = axes.imshow(values[np.ix_(order, order)], interpolation="nearest", **colors)
        for border in np.cumsum(sizes)[:-1]:
            axes.axhline(border - 0.5, color="black", linewidth=1)
            axes.axvline(border - 0.5, color="black", linewidth=1)
        axes.set_title(title, fontsize=11)
        axes.set_xticks([])
        figure.colorbar(image, ax=axes, shrink=0.8)
    left.set_yticks(range(len(order)), [names[i] for i in order], fontsize=7)
    return figure


def conflict_curve(
    history: Sequence[Mapping[str, Any]], peak: int | None, stopped_at: int | None, outcome: str
) -> Figure:
    """Draw the conflict during training.

    Records have `step`, `mean`, `error`, `smoothed` and `independent`. `peak` is the step of the
    peak that stopped the training at `stopped_at`; both are None without a stop. `outcome` says
    why.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    steps = [record["step"] for record in history]
    mean = np.array([record["mean"] for record in history])
    error = np.array([record["error"] for record in history])
    axes.plot(steps, mean, color=BLUE, alpha=0.35, label="conflict")
    axes.fill_between(
        steps, mean - error, mean + error, color=BLUE, alpha=0.12, label="standard error"
    )
    axes.plot(steps, [r["smoothed"] for r in history], color=BLUE, label="smoothed")
    floor = [1 - r["independent"] for r in history]
    axes.plot(steps, floor, ":", color=GREY, label="independent gradients")
    if peak is not None and stopped_at is not None:
        axes.axvline(peak, color=GREEN, linewidth=1, label=f"peak: {peak}")
    if stopped_at is not None:
        axes.axvline(stopped_at, color=RED, linewidth=1, label=f"stopped: {stopped_at}")
    axes.set_xlabel("step")
    axes.set_ylabel("1 - cos(g_i, G)")
    axes.set_title(textwrap.fill(outcome, 90), fontsize=8.5, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8.5, frameon=False)
    return figure
