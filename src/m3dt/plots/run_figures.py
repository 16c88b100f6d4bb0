"""Figures of a run: heat maps and the conflict during training; how a notebook shows figures."""

import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_MAX_COLUMN_LABELS = 12
_MAX_ANNOTATED = 12  # most columns with which cells show their values
_DOTS_PER_INCH = 90


class FigureView:
    """A figure that a notebook shows as PNG, with any plotting back end."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

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
    borders: Sequence[int] = (),
) -> Figure:
    """Draw a matrix, (rows, columns), with named rows and columns.

    `borders` are indices before which lines divide the rows and columns of a square matrix.
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
        for (y, x), value in np.ndenumerate(values):
            color = "black" if value > middle else "white"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(image, ax=axes).ax.tick_params(labelsize=9)
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
    axes.plot(steps, mean, color="#0072b2", alpha=0.35, label="conflict")
    axes.fill_between(
        steps, mean - error, mean + error, color="#0072b2", alpha=0.12, label="standard error"
    )
    axes.plot(steps, [r["smoothed"] for r in history], color="#0072b2", label="smoothed")
    floor = [1 - r["independent"] for r in history]
    axes.plot(steps, floor, ":", color="0.5", label="independent gradients")
    if peak is not None:
        axes.axvline(peak, color="#009e73", linewidth=1, label=f"peak: {peak}")
    if stopped_at is not None:
        axes.axvline(stopped_at, color="#d55e00", linewidth=1, label=f"stopped: {stopped_at}")
    axes.set_xlabel("step")
    axes.set_ylabel("1 - cos(g_i, G)")
    axes.set_title(textwrap.fill(outcome, 90), fontsize=8.5, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8.5, frameon=False)
    return figure
