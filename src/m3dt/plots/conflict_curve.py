"""The conflict during one training, and the step at which it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure


def conflict_curve(
    history: Sequence[Mapping[str, Any]], peak: int | None, stopped_at: int | None
) -> Figure:
    """Draw the conflict during training.

    Args:
        history: Records with `step`, `mean`, `smoothed` and `independent`.
        peak: Step of the weights that are kept so far, if any.
        stopped_at: Step at which training stopped, if it did.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    steps = [record["step"] for record in history]
    axes.plot(steps, [r["mean"] for r in history], color="#0072b2", alpha=0.35, label="conflict")
    axes.plot(steps, [r["smoothed"] for r in history], color="#0072b2", label="smoothed")
    floor = [1 - r["independent"] for r in history]
    axes.plot(steps, floor, ":", color="0.5", label="independent gradients")
    if peak is not None:
        axes.axvline(peak, color="#009e73", linewidth=1, label=f"peak: {peak}")
    if stopped_at is not None:
        axes.axvline(stopped_at, color="#d55e00", linewidth=1, label=f"stopped: {stopped_at}")
    axes.set_xlabel("step")
    axes.set_ylabel("1 - cos(g_i, G)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8.5, frameon=False)
    return figure
