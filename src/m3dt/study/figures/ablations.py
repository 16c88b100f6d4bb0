"""Figures 7 and 9, and where the experts' output is added (deviation 1 of the README)."""

from __future__ import annotations

from matplotlib.figure import Figure

from m3dt.study import queries
from m3dt.study.figures import panels
from m3dt.study.figures.panels import BLUE, RED, SCORE
from m3dt.study.method_names import RESIDUALS
from m3dt.study.queries import DOMAIN_TITLES, MEDIUM
from m3dt.study.study_results import Results


def stopping_figure(results: Results) -> Figure:
    """Draw the scores of backbone and M3DT over the backbone's training steps (figure 7)."""
    figure, (axes,) = panels.new_figure(1, 5.8)
    points = queries.scores_by_backbone_steps(results)
    panels.draw(axes, queries.scores_by_backbone_steps(results, "backbone"), "backbone alone", BLUE)
    panels.draw(axes, points, "M3DT", RED, shift=1)
    title, x_label = f"When the backbone stops, {MEDIUM} tasks", "steps of the backbone"
    stated = "paper: best at the conflict peak, about 400k; worse at 200k and from 600k on"
    panels.finish(axes, title, x_label, SCORE, list(points), stated)
    return figure


def top_k_figure(results: Results) -> Figure:
    """Draw the scores of noisy top-k routers and of the dense router (figure 9)."""
    figure, (axes,) = panels.new_figure(1, 5.8)
    top_k, num_experts = queries.scores_by_top_k(results), queries.base().moe.num_experts
    panels.draw(axes, top_k, "noisy top-k", BLUE)
    dense = {num_experts: queries.m3dt_scores(results)}
    panels.draw(axes, dense, f"all {num_experts} experts, weighed", RED)
    title, x_label = f"Noisy top-k routers, {MEDIUM} tasks", "experts a token goes to"
    panels.finish(axes, title, x_label, SCORE, [*top_k, num_experts])
    return figure


def residual_figure(results: Results) -> Figure:
    """Draw the scores with experts added to h, and to LN(h), by domain."""
    figure, (axes,) = panels.new_figure(1, 7.2)
    to_h, official = zip(*(queries.residual_scores(results, c) for c in DOMAIN_TITLES), strict=True)
    series = [(RESIDUALS[0], RED, to_h), (RESIDUALS[1], BLUE, official)]
    panels.name_points(axes, list(DOMAIN_TITLES.values()), series)
    panels.finish(axes, "What experts are added to", "", SCORE, paper="a question of ours")
    return figure
