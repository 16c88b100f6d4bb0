"""Figures 5, 7 and 12: conflict over training and inside experts, and when to stop the backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from m3dt.figures.results import Results, estimate
from m3dt.figures.scaling import BLUE, GREEN, GREY, PINK, RED, draw, finish, panels

_SEEDS = range(10)
BACKBONE_STEPS = (1000, 2000, 3000, 6000)


def conflict_figure(results: Results) -> Figure:
    """Draw conflict over the training of the backbone on 160 tasks (figures 2 and 7)."""
    figure, (left, right) = panels(2)
    cells = [(f"seed{s}_mt160_m3dt-gradient_max_steps6000", "backbone/conflict") for s in _SEEDS]
    draw_curve(left, results, cells, lambda r: r["mean"], "all parameters", BLUE)
    draw_curve(left, results, cells, lambda r: r["parts"]["attention"], "attention", GREEN)
    draw_curve(left, results, cells, lambda r: r["parts"]["mlp"], "MLP", PINK)
    finish(left, "Conflict, as the paper defines it", "step", "1 - cos(g_i, G)")
    draw_curve(right, results, cells, lambda r: 1 - r["mean"], "to the mean (the paper's)", BLUE)
    draw_curve(right, results, cells, lambda r: r["leave_one_out"], "to the others' mean", RED)
    draw_curve(right, results, cells, lambda r: r["independent"], "1/sqrt(N)", GREY, ":")
    finish(right, "How much of it is real", "step", "mean cosine")
    return figure


def draw_curve(
    axes: Axes,
    results: Results,
    cells: list[tuple[str, str]],
    value: Any,
    label: str,
    color: str,
    style: str = "-",
) -> None:
    """Draw the mean of cells' curves over their common steps, and each one faintly."""
    curves = []
    for cell, measured in cells:
        curve = {r["step"]: value(r) for r in results.curve(cell, measured)}
        if curve:
            curves.append(curve)
            if len(cells) > 1:
                axes.plot(list(curve), list(curve.values()), color=color, alpha=0.2, linewidth=0.8)
    if curves:
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        means = [float(np.mean([curve[step] for curve in curves])) for step in steps]
        axes.plot(steps, means, style, color=color, label=label, linewidth=1.6)


def stopping_figure(results: Results) -> Figure:
    """Draw the scores of backbone and M3DT over the backbone's steps (figure 7)."""
    figure, (axes,) = panels(1, 5.2)
    for column, label, color in (("backbone", "backbone alone", BLUE), ("score", "M3DT", RED)):
        points = {
            steps: results.estimate("backbone", column, max_steps=steps) for steps in BACKBONE_STEPS
        }
        points[3000] = results.estimate("m3dt", column, suite="mt160", method="m3dt-gradient")
        draw(axes, points, label, color)
    finish(axes, "160 tasks", "steps of the backbone", "normalized score", BACKBONE_STEPS)
    return figure


def expert_conflict_figure(results: Results) -> Figure:
    """Draw the conflict inside trained experts, grouped and not (figure 5)."""
    figure, (left, right) = panels(2)
    methods = ("m3dt-gradient", "m3dt-random", "m3dt-ungrouped")
    for panel, key, label in (
        (left, "conflict", "1 - cos(g_i, G)"),
        (right, "leave_one_out", "cos(g_i, mean of the others)"),
    ):
        for x, method in enumerate(methods):
            for name, color, offset in (("grouped", RED, -0.12), ("all", BLUE, 0.12)):
                values = expert_conflict(results, method, name, key)
                found = estimate(values)
                shown = "within each group" if name == "grouped" else "between all tasks"
                draw(panel, {x + offset: found}, shown if x == 0 else "", color, "o")
        finish(panel, "", "", label)
        panel.set_xticks(range(3), ["gradient groups", "random groups", "no groups"])
    left.set_title("Conflict in the experts' parameters", fontsize=11, loc="left")
    right.set_title("without the bonus of small groups", fontsize=11, loc="left")
    return figure


def expert_conflict(results: Results, method: str, name: str, key: str) -> list[float]:
    """Return a measure of the trained experts' conflict on 160 tasks, by seed."""
    measured = "router" if method == "m3dt-ungrouped" else "expert"
    values = []
    for seed in _SEEDS:
        curve = results.curve(f"seed{seed}_mt160_{method}", f"{measured}/expert_conflict")
        if curve and name in curve[-1]:
            values.append(curve[-1][name][key])
    return values


def modules_figure(results: Results) -> Figure:
    """Draw score and conflict with attention or MLP widened alone (figure 12)."""
    figure, (left, right) = panels(2)
    variants: tuple[tuple[str, str, dict[str, str], str], ...] = (
        ("as it is", "baselines", {"method": "promptdt", "suite": "mt160"}, "promptdt"),
        ("attention x 3", "attention", {}, "promptdt_attention_width192"),
        ("MLP x 2", "mlp", {}, "promptdt_mlp_width512"),
    )
    for x, (_, part, values, cell) in enumerate(variants):
        draw(left, {x: results.estimate(part, **values)}, "", BLUE, "o")
        for kind, color, offset in (("attention", GREEN, -0.1), ("mlp", PINK, 0.1)):
            ends = [
                curve[-1]["parts"][kind]
                for seed in _SEEDS
                if (curve := results.curve(f"seed{seed}_mt160_{cell}", "baseline/conflict"))
            ]
            draw(right, {x + offset: estimate(ends)}, kind if x == 0 else "", color, "o")
    for panel in (left, right):
        panel.set_xticks(range(3), [name for name, *_ in variants])
    finish(left, "160 tasks, Prompt-DT", "", "normalized score")
    finish(right, "conflict at the end, by module", "", "1 - cos(g_i, G)")
    return figure
