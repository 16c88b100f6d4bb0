"""Figures 2, 3, 6 to 11 and performance profiles: scores over tasks, parameters, choices."""

from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from m3dt.study import paper, queries
from m3dt.study.aggregates import performance_profile
from m3dt.study.figures import panels
from m3dt.study.figures.panels import BLUE, GREEN, GREY, PINK, RED, SCORE
from m3dt.study.paper import METHODS, PROMPT_DT, RESIDUALS
from m3dt.study.queries import DOMAIN_TITLES, MANY, MEDIUM, SUITES, TASK_COUNTS
from m3dt.study.study_results import Results
from m3dt.tasks import DOMAINS

_COLORS = (BLUE, GREEN, GREY, PINK, RED)  # of METHODS
_ALL_CONTROL = "metaworld and dmcontrol together"


def tasks_figure(results: Results) -> Figure:
    """Draw the scores of Prompt-DT and M3DT over the number of tasks (figure 2)."""
    figure, (axes,) = panels.new_figure(1, 5.8)
    panels.draw(axes, {n: queries.prompt_dt_scores(results, n) for n in SUITES}, "Prompt-DT", BLUE)
    points = {n: queries.m3dt_scores(results, n) for n in TASK_COUNTS}
    panels.draw(axes, points, "M3DT-Gradient", RED, shift=1)
    same = {n: queries.scores_on_list(results, n, MANY, PROMPT_DT) for n in SUITES if n != MANY}
    panels.draw(axes, same, f"Prompt-DT of {MANY} tasks, on these", GREEN, "s--", shift=-1)
    panels.draw_paper(axes, paper.SCORES["m3dt-random"], "M3DT-Random, the paper's")
    stated = f"paper: M3DT loses {paper.DROP_10_TO_160} % from 10 to 160 tasks, others about 20 %"
    panels.finish(axes, "Score over tasks", "tasks", SCORE, list(SUITES), stated)
    return figure


def parameters_figure(results: Results) -> Figure:
    """Draw the scores of Prompt-DT at several widths and of M3DT over tasks (figure 3)."""
    figure, (left, right) = panels.new_figure(2)
    sizes, default = queries.widths(results), queries.base().model.n_embd
    for i, (width, color) in enumerate(zip(sizes, (PINK, BLUE, GREEN, GREY), strict=False)):
        tasks = TASK_COUNTS if width == default else (MEDIUM,)
        points = {n: queries.prompt_dt_scores(results, n, width) for n in tasks}
        panels.draw(left, points, f"Prompt-DT, width {width}", color, shift=i - 1)
    points = {n: queries.m3dt_scores(results, n) for n in TASK_COUNTS}
    panels.draw(left, points, f"M3DT-Gradient, width {default}", RED, shift=2)
    panels.finish(left, "More tasks", "tasks", SCORE, TASK_COUNTS)
    points = {width: queries.prompt_dt_scores(results, MEDIUM, width) for width in sizes}
    panels.draw(right, points, "Prompt-DT", GREEN)
    label = f"M3DT-Gradient, {queries.base().moe.num_experts} experts"
    panels.draw(right, queries.scores_by(results, "width"), label, RED, shift=1)
    stated = "paper: saturates at 160 tasks"
    panels.finish(right, f"Wider models, {MEDIUM} tasks", "width", SCORE, sizes, stated)
    return figure


def experts_figure(results: Results) -> Figure:
    """Draw the scores of M3DT and the oracle over the number of experts (figures 6 and 8)."""
    figure, (axes,) = panels.new_figure(1, 5.8)
    routed, oracle = (queries.scores_by(results, "experts", c) for c in ("score", "oracle"))
    panels.draw(axes, oracle, "oracle: own group's expert", GREY, "s--")
    panels.draw(axes, routed, "router", RED, shift=1)
    backbone = queries.m3dt_scores(results, column="backbone")
    if backbone:
        axes.axhline(fmean(backbone.values()), color=BLUE, linestyle=":", label="backbone alone")
    stated = "paper: more experts add {} to {} %".format(*paper.MORE_EXPERTS)
    title = f"Number of experts, {MEDIUM} tasks"
    panels.finish(axes, title, "experts", SCORE, list(routed), stated)
    return figure


def width_figure(results: Results) -> Figure:
    """Draw M3DT's scores over width, and for shapes of equal parameters (figures 8 and 10)."""
    figure, (left, right) = panels.new_figure(2)
    for shift, column, label, color, style in (
        (-1, "backbone", "backbone", BLUE, "o-"),
        (0, "oracle", "oracle", GREY, "s--"),
        (1, "score", "router", RED, "o-"),
    ):
        points = queries.scores_by(results, "width", column)
        panels.draw(left, points, label, color, style, shift)
    title = f"{queries.base().moe.num_experts} experts of growing width"
    stated = "paper: the oracle is an upper bound"
    panels.finish(left, title, "width", SCORE, list(points), stated)
    shapes = queries.scores_by_shape(results)
    panels.name_points(right, list(shapes), [("", RED, list(shapes.values()))])
    panels.finish(right, "As many parameters in experts", "experts x width", SCORE,
                  paper="a question of ours: which shape is best?")  # fmt: skip
    return figure


def stopping_figure(results: Results) -> Figure:
    """Draw the scores of backbone and M3DT over the backbone's training steps (figure 7)."""
    figure, (axes,) = panels.new_figure(1, 5.8)
    alone, points = (queries.scores_by(results, "backbone", c) for c in ("backbone", "score"))
    panels.draw(axes, alone, "backbone alone", BLUE)
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
    """Draw the scores with experts added to h, and to LN(h), by domain (README, deviation 1)."""
    figure, (axes,) = panels.new_figure(1, 7.2)
    to_h, official = zip(*(queries.residual_scores(results, c) for c in DOMAIN_TITLES), strict=True)
    series = [(RESIDUALS[0], RED, to_h), (RESIDUALS[1], BLUE, official)]
    panels.name_points(axes, list(DOMAIN_TITLES.values()), series)
    panels.finish(axes, "What experts are added to", "", SCORE, paper="a question of ours")
    return figure


def domains_figure(results: Results) -> Figure:
    """Draw each domain's score over the number of tasks, by method (figure 11)."""
    titles = (*DOMAINS, _ALL_CONTROL)
    figure, (*shown, spare) = panels.new_figure(len(titles), 3.8)
    for panel, title in zip(shown, titles, strict=True):
        for i, (part, method, label) in enumerate(METHODS):
            points = {
                n: queries.control_scores(results, n, part, method)
                if title == _ALL_CONTROL
                else results.scores(part, title, suite=SUITES[n], method=method)
                for n in TASK_COUNTS
            }
            panels.draw(panel, points, label, _COLORS[i], shift=i - 2)
        if title == _ALL_CONTROL:
            panels.draw_paper(panel, paper.METAWORLD_DMCONTROL, "M3DT-Gradient, the paper's")
        panels.finish(panel, title, "tasks", SCORE, TASK_COUNTS)
    panels.share_legend(shown, spare)
    return figure


def profiles_figure(results: Results) -> Figure:
    """Draw the share of tasks and seeds above each score, by method: performance profiles."""
    figure, shown = panels.new_figure(len(TASK_COUNTS))
    thresholds = np.arange(100)
    for axes, n in zip(shown, TASK_COUNTS, strict=True):
        for (part, method, label), color in zip(METHODS, _COLORS, strict=True):
            scores = queries.all_scores(results, n, part, method)
            if len(scores):
                shares = performance_profile(scores, thresholds)
                axes.plot(thresholds, shares, color=color, label=f"{label} (n = {len(scores)})")
        axes.set_ylim(0, 1)
        panels.finish(axes, f"{n} tasks", SCORE, "share of tasks and seeds above")
    return figure
