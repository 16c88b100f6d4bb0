"""Figures 2, 3, 6, 8, 9, 10: scores over tasks, parameters, experts and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from m3dt.figures.results import Estimate, Results, estimate

BLUE, RED, GREEN, PINK, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "0.45"
SUITES = {10: "mt10", 20: "mt20", 40: "mt40", 80: "mt80", 160: "mt160"}
Points = Mapping[Any, Estimate | None]  # by tasks, width, number of experts ...


def panels(count: int, width: float = 4.6) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with panels side by side."""
    figure = Figure(figsize=(width * count, 3.6), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    return figure, axes


def draw(axes: Axes, points: Points, label: str, color: str, style: str = "o-") -> None:
    """Draw means over seeds with their intervals; points without results are left out."""
    found = [(x, e) for x, e in sorted(points.items()) if e is not None]
    x, means = [x for x, _ in found], [e.mean for _, e in found]
    axes.plot(x, means, style, color=color, label=label, markersize=5, linewidth=1.4)
    bars = [(x, e.low, e.high) for x, e in found if e.seeds > 1]
    axes.vlines(*zip(*bars, strict=True), color=color, alpha=0.35, linewidth=3) if bars else None


def finish(axes: Axes, title: str, x_label: str, y_label: str, ticks: Sequence[float] = ()) -> None:
    """Name a panel's axes and show its legend."""
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x_label, fontsize=10)
    axes.set_ylabel(y_label, fontsize=10)
    if ticks:
        axes.set_xscale("log")
        axes.set_xticks(list(ticks), [f"{t:g}" for t in ticks])
        axes.minorticks_off()
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8.5, frameon=False)


def tasks_figure(results: Results) -> Figure:
    """Draw score and gradient similarity of the backbone over the number of tasks (figure 2)."""
    figure, (left, right) = panels(2)
    draw(left, {n: backbone_score(results, n) for n in SUITES}, "Prompt-DT", BLUE)
    finish(left, "Score falls with tasks?", "tasks", "normalized score", list(SUITES))
    for key, label, color in (
        ("to_mean", "to the mean gradient (the paper's)", BLUE),
        ("leave_one_out", "to the mean of the others", RED),
        ("pairwise", "between pairs", GREEN),
        ("independent", "independent gradients: 1/sqrt(N)", GREY),
    ):
        style = "o:" if key == "independent" else "o-"
        draw(right, {n: final_similarity(results, n, key) for n in SUITES}, label, color, style)
    finish(right, "Gradients agree less?", "tasks", "mean cosine", list(SUITES))
    return figure


def backbone_score(results: Results, tasks: int, width: int = 64) -> Estimate | None:
    """Return the score of Prompt-DT with the whole budget."""
    if width != 64:
        return results.estimate("size", suite=SUITES[tasks], n_embd=width)
    part = "tasks" if tasks in (20, 40) else "baselines"
    return results.estimate(part, suite=SUITES[tasks], method="promptdt")


def final_similarity(results: Results, tasks: int, key: str) -> Estimate | None:
    """Return a similarity at the end of Prompt-DT's training."""
    values = []
    for seed in range(10):
        curve = results.curve(f"seed{seed}_{SUITES[tasks]}_promptdt", "baseline/conflict")
        if curve:
            last = curve[-1]
            values.append(1 - last["mean"] if key == "to_mean" else last[key])
    return estimate(values)


def parameters_figure(results: Results) -> Figure:
    """Draw Prompt-DT's score over tasks for three widths, and M3DT beside it (figure 3)."""
    figure, (left, right) = panels(2)
    suites = (10, 80, 160)
    for width, color in ((32, PINK), (64, BLUE), (128, GREEN)):
        points = {n: backbone_score(results, n, width) for n in suites if n != 80 or width == 64}
        draw(left, points, f"Prompt-DT, width {width}", color)
    m3dt = {n: results.estimate("m3dt", suite=SUITES[n], method="m3dt-gradient") for n in suites}
    draw(left, m3dt, "M3DT, width 64", RED)
    finish(left, "More tasks", "tasks", "normalized score", suites)
    for n, color in ((10, PINK), (160, GREEN)):
        points = {w: backbone_score(results, n, w) for w in (32, 64, 128)}
        draw(right, points, f"{n} tasks", color)
    finish(right, "Wider models", "width", "normalized score", (32, 64, 128))
    return figure


def experts_points(results: Results, column: str = "score") -> Points:
    """Return scores of M3DT-Gradient on 160 tasks by the number of experts."""
    points = {float(e): results.estimate("experts", column, num_experts=e) for e in (2, 4, 16)}
    points[8.0] = results.estimate("m3dt", column, suite="mt160", method="m3dt-gradient")
    return points


def experts_figure(results: Results) -> Figure:
    """Draw M3DT's score over the number of experts, and the oracle's (figures 6 and 8)."""
    figure, (axes,) = panels(1, 5.2)
    draw(axes, experts_points(results, "oracle"), "oracle: own group's expert", GREY, "s--")
    draw(axes, experts_points(results), "router", RED)
    backbone = results.estimate("m3dt", "backbone", suite="mt160", method="m3dt-gradient")
    if backbone:
        axes.axhline(backbone.mean, color=BLUE, linestyle=":", label="backbone alone")
    finish(axes, "160 tasks", "experts", "normalized score", (2, 4, 8, 16))
    return figure


def width_figure(results: Results) -> Figure:
    """Draw M3DT's score over its width, and shapes with equal parameters (figures 8 and 10)."""
    figure, (left, right) = panels(2)
    for column, label, color, style in (
        ("backbone", "backbone", BLUE, "o-"),
        ("oracle", "oracle", GREY, "s--"),
        ("score", "router", RED, "o-"),
    ):
        points = {w: results.estimate("width", column, n_embd=w) for w in (32, 128)}
        points[64] = results.estimate("m3dt", column, suite="mt160", method="m3dt-gradient")
        draw(left, points, label, color, style)
    finish(left, "8 experts of growing width", "width", "normalized score", (32, 64, 128))
    shapes: dict[float, Estimate | None] = {
        0: results.estimate("narrow"),
        1: results.estimate("m3dt", suite="mt160", method="m3dt-gradient"),
        2: results.estimate("wide"),
    }
    draw(right, shapes, "M3DT-Gradient", RED, "o")
    finish(right, "Equal parameters in experts", "experts x width", "normalized score")
    right.set_xticks([0, 1, 2], ["32 x 32", "8 x 64", "2 x 128"])
    return figure


def top_k_figure(results: Results) -> Figure:
    """Draw the score of noisy top-k routers beside the dense one (figure 9)."""
    figure, (axes,) = panels(1)
    points = {float(k): results.estimate("top-k", top_k=k) for k in (1, 2, 4)}
    draw(axes, points, "noisy top-k", BLUE)
    dense = {8.0: results.estimate("m3dt", suite="mt160", method="m3dt-gradient")}
    draw(axes, dense, "all 8 experts, weighed", RED)
    finish(axes, "160 tasks", "experts a token goes to", "normalized score", (1, 2, 4, 8))
    return figure
