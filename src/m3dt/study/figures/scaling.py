"""Figures 2, 3, 6, 8, 10: scores over tasks, parameters, experts and shapes."""

from __future__ import annotations

from statistics import fmean

from matplotlib.figure import Figure

from m3dt.study import paper
from m3dt.study.figures.panels import (
    BLUE,
    GREEN,
    GREY,
    PINK,
    RED,
    SCORE,
    draw,
    draw_paper,
    finish,
    name_points,
    panels,
)
from m3dt.study.method_names import PROMPT_DT
from m3dt.study.queries import (
    MANY,
    MEDIUM,
    SUITES,
    TASK_COUNTS,
    base,
    m3dt_scores,
    prompt_dt_scores,
    scores_by_experts,
    scores_by_shape,
    scores_by_width,
    scores_on_list,
    widths,
)
from m3dt.study.results import Results

_COLORS = (PINK, BLUE, GREEN, GREY)


def tasks_figure(results: Results) -> Figure:
    """Draw the scores of Prompt-DT and M3DT over the number of tasks (figure 2)."""
    figure, (axes,) = panels(1, 5.8)
    draw(axes, {n: prompt_dt_scores(results, n) for n in SUITES}, "Prompt-DT", BLUE)
    points = {n: m3dt_scores(results, n) for n in TASK_COUNTS}
    draw(axes, points, "M3DT-Gradient", RED, shift=1)
    same = {n: scores_on_list(results, n, MANY, PROMPT_DT) for n in SUITES if n != MANY}
    draw(axes, same, f"Prompt-DT of {MANY} tasks, on these", GREEN, "s--", shift=-1)
    draw_paper(axes, paper.SCORES["m3dt-random"], "M3DT-Random, the paper's")
    stated = f"paper: M3DT loses {paper.DROP_10_TO_160} % from 10 to 160 tasks, others about 20 %"
    finish(axes, "Score over tasks", "tasks", SCORE, list(SUITES), stated)
    return figure


def parameters_figure(results: Results) -> Figure:
    """Draw the scores of Prompt-DT at several widths and of M3DT over tasks (figure 3)."""
    figure, (left, right) = panels(2)
    sizes, default = widths(results), base().model.n_embd
    for i, (width, color) in enumerate(zip(sizes, _COLORS, strict=False)):
        tasks = TASK_COUNTS if width == default else (MEDIUM,)
        points = {n: prompt_dt_scores(results, n, width) for n in tasks}
        draw(left, points, f"Prompt-DT, width {width}", color, shift=i - 1)
    points = {n: m3dt_scores(results, n) for n in TASK_COUNTS}
    draw(left, points, f"M3DT-Gradient, width {default}", RED, shift=2)
    finish(left, "More tasks", "tasks", SCORE, TASK_COUNTS)
    draw(right, {w: prompt_dt_scores(results, MEDIUM, w) for w in sizes}, "Prompt-DT", GREEN)
    label = f"M3DT-Gradient, {base().moe.num_experts} experts"
    draw(right, scores_by_width(results), label, RED, shift=1)
    stated = "paper: saturates at 160 tasks"
    finish(right, f"Wider models, {MEDIUM} tasks", "width", SCORE, sizes, stated)
    return figure


def experts_figure(results: Results) -> Figure:
    """Draw the scores of M3DT and the oracle over the number of experts (figures 6 and 8)."""
    figure, (axes,) = panels(1, 5.8)
    routed = scores_by_experts(results)
    draw(axes, scores_by_experts(results, "oracle"), "oracle: own group's expert", GREY, "s--")
    draw(axes, routed, "router", RED, shift=1)
    backbone = m3dt_scores(results, column="backbone")
    if backbone:
        axes.axhline(fmean(backbone.values()), color=BLUE, linestyle=":", label="backbone alone")
    stated = "paper: more experts add {} to {} %".format(*paper.MORE_EXPERTS)
    title = f"Number of experts, {MEDIUM} tasks"
    finish(axes, title, "experts", SCORE, list(routed), stated)
    return figure


def width_figure(results: Results) -> Figure:
    """Draw M3DT's scores over width, and for shapes of equal parameters (figures 8 and 10)."""
    figure, (left, right) = panels(2)
    for shift, column, label, color, style in (
        (-1, "backbone", "backbone", BLUE, "o-"),
        (0, "oracle", "oracle", GREY, "s--"),
        (1, "score", "router", RED, "o-"),
    ):
        draw(left, scores_by_width(results, column), label, color, style, shift)
    title = f"{base().moe.num_experts} experts of growing width"
    ticks = list(scores_by_width(results))
    finish(left, title, "width", SCORE, ticks, "paper: the oracle is an upper bound")
    shapes = scores_by_shape(results)
    name_points(right, list(shapes), [("", RED, list(shapes.values()))])
    finish(right, "As many parameters in experts", "experts x width", SCORE,
           paper="a question of ours: which shape is best?")  # fmt: skip
    return figure
