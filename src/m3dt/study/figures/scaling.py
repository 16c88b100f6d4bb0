"""Figures 2, 3, 6, 8, 10: scores over tasks, parameters, experts and shapes."""

from __future__ import annotations

from statistics import fmean

from matplotlib.figure import Figure

from m3dt.study import paper, queries
from m3dt.study.figures import panels
from m3dt.study.figures.panels import BLUE, GREEN, GREY, PINK, RED, SCORE
from m3dt.study.method_names import PROMPT_DT
from m3dt.study.queries import MANY, MEDIUM, SUITES, TASK_COUNTS
from m3dt.study.study_results import Results

_COLORS = (PINK, BLUE, GREEN, GREY)


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
    for i, (width, color) in enumerate(zip(sizes, _COLORS, strict=False)):
        tasks = TASK_COUNTS if width == default else (MEDIUM,)
        points = {n: queries.prompt_dt_scores(results, n, width) for n in tasks}
        panels.draw(left, points, f"Prompt-DT, width {width}", color, shift=i - 1)
    points = {n: queries.m3dt_scores(results, n) for n in TASK_COUNTS}
    panels.draw(left, points, f"M3DT-Gradient, width {default}", RED, shift=2)
    panels.finish(left, "More tasks", "tasks", SCORE, TASK_COUNTS)
    panels.draw(
        right, {w: queries.prompt_dt_scores(results, MEDIUM, w) for w in sizes}, "Prompt-DT", GREEN
    )
    label = f"M3DT-Gradient, {queries.base().moe.num_experts} experts"
    panels.draw(right, queries.scores_by_width(results), label, RED, shift=1)
    stated = "paper: saturates at 160 tasks"
    panels.finish(right, f"Wider models, {MEDIUM} tasks", "width", SCORE, sizes, stated)
    return figure


def experts_figure(results: Results) -> Figure:
    """Draw the scores of M3DT and the oracle over the number of experts (figures 6 and 8)."""
    figure, (axes,) = panels.new_figure(1, 5.8)
    routed = queries.scores_by_experts(results)
    panels.draw(
        axes,
        queries.scores_by_experts(results, "oracle"),
        "oracle: own group's expert",
        GREY,
        "s--",
    )
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
        panels.draw(left, queries.scores_by_width(results, column), label, color, style, shift)
    title = f"{queries.base().moe.num_experts} experts of growing width"
    ticks = list(queries.scores_by_width(results))
    panels.finish(left, title, "width", SCORE, ticks, "paper: the oracle is an upper bound")
    shapes = queries.scores_by_shape(results)
    panels.name_points(right, list(shapes), [("", RED, list(shapes.values()))])
    panels.finish(right, "As many parameters in experts", "experts x width", SCORE,
           paper="a question of ours: which shape is best?")  # fmt: skip
    return figure
