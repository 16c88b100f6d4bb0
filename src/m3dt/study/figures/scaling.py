"""Figures 2, 3, 6, 8, 10: scores over tasks, parameters, experts and shapes."""

from __future__ import annotations

from statistics import fmean

from matplotlib.figure import Figure

from m3dt.study import paper
from m3dt.study.estimates import Results
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
from m3dt.study.lookup import (
    MAIN,
    SUITES,
    base,
    by_experts,
    by_width,
    m3dt,
    on_list,
    prompt_dt,
    shapes,
    widths,
)

M3DT_SUITES = (10, MAIN, 160)
_COLORS = (PINK, BLUE, GREEN, GREY)


def tasks_figure(results: Results) -> Figure:
    """Draw the score of Prompt-DT and M3DT over the number of tasks (figure 2)."""
    figure, (axes,) = panels(1, 5.8)
    draw(axes, {n: prompt_dt(results, n) for n in SUITES}, "Prompt-DT", BLUE)
    points = {n: m3dt(results, n) for n in M3DT_SUITES}
    draw(axes, points, "M3DT-Gradient", RED, place=1)
    same = {n: on_list(results, n, 160, "promptdt") for n in list(SUITES)[:-1]}
    draw(axes, same, "Prompt-DT of 160 tasks, on these", GREEN, "s--", place=-1)
    draw_paper(axes, paper.SCORES["m3dt-random"], "M3DT-Random, the paper's")
    told = f"paper: M3DT loses {paper.DROP_10_TO_160} % from 10 to 160 tasks, others about 20 %"
    finish(axes, "Score over tasks", "tasks", SCORE, list(SUITES), told)
    return figure


def parameters_figure(results: Results) -> Figure:
    """Draw Prompt-DT's score over tasks for several widths, and M3DT beside it (figure 3)."""
    figure, (left, right) = panels(2)
    sizes, own = widths(results), base().model.n_embd
    for place, (width, color) in enumerate(zip(sizes, _COLORS, strict=False)):
        suites = M3DT_SUITES if width == own else (MAIN,)
        points = {n: prompt_dt(results, n, width) for n in suites}
        draw(left, points, f"Prompt-DT, width {width}", color, place=place - 1)
    points = {n: m3dt(results, n) for n in M3DT_SUITES}
    draw(left, points, f"M3DT-Gradient, width {own}", RED, place=2)
    finish(left, "More tasks", "tasks", SCORE, M3DT_SUITES)
    draw(right, {w: prompt_dt(results, MAIN, w) for w in sizes}, "Prompt-DT", GREEN)
    label = f"M3DT-Gradient, {base().moe.num_experts} experts"
    draw(right, by_width(results), label, RED, place=1)
    told = "paper: saturates at 160 tasks"
    finish(right, f"Wider models, {MAIN} tasks", "width", SCORE, sizes, told)
    return figure


def experts_figure(results: Results) -> Figure:
    """Draw M3DT's score over the number of experts, and the oracle's (figures 6 and 8)."""
    figure, (axes,) = panels(1, 5.8)
    draw(axes, by_experts(results, "oracle"), "oracle: own group's expert", GREY, "s--")
    draw(axes, by_experts(results), "router", RED, place=1)
    backbone = m3dt(results, column="backbone")
    if backbone:
        axes.axhline(fmean(backbone.values()), color=BLUE, linestyle=":", label="backbone alone")
    told = "paper: more experts add {} to {} %".format(*paper.MORE_EXPERTS)
    counts = list(by_experts(results))
    finish(axes, f"Number of experts, {MAIN} tasks", "experts", SCORE, counts, told)
    return figure


def width_figure(results: Results) -> Figure:
    """Draw M3DT's score over its width, and shapes with equal parameters (figures 8 and 10)."""
    figure, (left, right) = panels(2)
    for place, column, label, color, style in (
        (-1, "backbone", "backbone", BLUE, "o-"),
        (0, "oracle", "oracle", GREY, "s--"),
        (1, "score", "router", RED, "o-"),
    ):
        draw(left, by_width(results, column), label, color, style, place)
    sizes = list(by_width(results))
    title = f"{base().moe.num_experts} experts of growing width"
    told = "paper: the oracle is an upper bound"
    finish(left, title, "width", SCORE, sizes, told)
    found = shapes(results)
    name_points(right, list(found), [("", RED, list(found.values()))])
    told = "a question of ours: which shape is best?"
    finish(right, "As many parameters in experts", "experts x width", SCORE, paper=told)
    return figure
