"""Figures 7 and 9, and where the experts' output is added (deviation 1 of the README)."""

from __future__ import annotations

from matplotlib.figure import Figure

from m3dt.study.figures.panels import BLUE, RED, SCORE, draw, finish, name_points, panels
from m3dt.study.method_names import RESIDUALS
from m3dt.study.queries import (
    DOMAIN_TITLES,
    MEDIUM,
    base,
    m3dt_scores,
    residual_scores,
    scores_by_backbone_steps,
    scores_by_top_k,
)
from m3dt.study.results import Results


def stopping_figure(results: Results) -> Figure:
    """Draw the scores of backbone and M3DT over the backbone's training steps (figure 7)."""
    figure, (axes,) = panels(1, 5.8)
    points = scores_by_backbone_steps(results)
    draw(axes, scores_by_backbone_steps(results, "backbone"), "backbone alone", BLUE)
    draw(axes, points, "M3DT", RED, shift=1)
    title, x_label = f"When the backbone stops, {MEDIUM} tasks", "steps of the backbone"
    stated = "paper: best at the conflict peak, about 400k; worse at 200k and from 600k on"
    finish(axes, title, x_label, SCORE, list(points), stated)
    return figure


def top_k_figure(results: Results) -> Figure:
    """Draw the scores of noisy top-k routers and of the dense router (figure 9)."""
    figure, (axes,) = panels(1, 5.8)
    top_k, num_experts = scores_by_top_k(results), base().moe.num_experts
    draw(axes, top_k, "noisy top-k", BLUE)
    draw(axes, {num_experts: m3dt_scores(results)}, f"all {num_experts} experts, weighed", RED)
    title, x_label = f"Noisy top-k routers, {MEDIUM} tasks", "experts a token goes to"
    finish(axes, title, x_label, SCORE, [*top_k, num_experts])
    return figure


def residual_figure(results: Results) -> Figure:
    """Draw the scores with experts added to h, and to LN(h), by domain."""
    figure, (axes,) = panels(1, 7.2)
    to_h, official = zip(*(residual_scores(results, c) for c in DOMAIN_TITLES), strict=True)
    series = [(RESIDUALS[0], RED, to_h), (RESIDUALS[1], BLUE, official)]
    name_points(axes, list(DOMAIN_TITLES.values()), series)
    finish(axes, "What experts are added to", "", SCORE, paper="a question of ours")
    return figure
