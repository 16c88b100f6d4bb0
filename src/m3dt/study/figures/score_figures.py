"""Figures 2, 3, 11 and performance profiles: scores over tasks and parameters."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from m3dt.plots.palette import BLUE, METHOD_COLORS, RED
from m3dt.study import paper, queries, setting_queries
from m3dt.study.aggregates import performance_profile
from m3dt.study.design import METHOD_PARTS
from m3dt.study.figures import panels
from m3dt.study.figures.panels import SCORE
from m3dt.study.paper import METHODS, PROMPT_DT
from m3dt.study.study_results import Results

_COLORS = [METHOD_COLORS[method] for _, method, _ in METHODS]
_ALL_CONTROL = "metaworld and dmcontrol together"


def tasks_figure(results: Results) -> Figure:
    """Draw the scores of Prompt-DT and M3DT over the number of tasks (figure 2)."""
    figure, (axes,) = panels.new_figure(1, 5.8)
    counts, many = sorted({*results.task_counts, *results.counts_of("tasks")}), results.many
    panels.draw(axes, {n: queries.prompt_dt_scores(results, n) for n in counts}, "Prompt-DT", BLUE)
    points = {n: queries.m3dt_scores(results, n) for n in results.task_counts}
    panels.draw(axes, points, "M3DT-Gradient", RED, shift=1)
    same = {n: queries.scores_on_list(results, n, many, PROMPT_DT) for n in counts if n != many}
    panels.draw(axes, same, f"Prompt-DT of {many} tasks, on these", BLUE, "s--", shift=-1)
    panels.draw_paper(axes, paper.SCORES["m3dt-random"], "M3DT-Random, the paper's")
    stated = f"paper: M3DT loses {paper.DROP_10_TO_160} % from 10 to 160 tasks, others about 20 %"
    panels.finish(axes, "Score over tasks", "tasks", SCORE, counts, stated)
    return figure


def parameters_figure(results: Results) -> Figure:
    """Draw the scores of Prompt-DT at several widths and of M3DT over tasks (figure 3)."""
    figure, (left, right) = panels.new_figure(2)
    base, counts = results.base, results.task_counts
    sizes, default = queries.widths(results), base.model.n_embd
    for i, (width, style) in enumerate(zip(sizes, ("v:", "o-", "s--", "^-."), strict=False)):
        tasks = counts if width == default else results.counts_of("size")
        points = {n: queries.prompt_dt_scores(results, n, width) for n in tasks}
        panels.draw(left, points, f"Prompt-DT, width {width}", BLUE, style, shift=i - 1)
    points = {n: queries.m3dt_scores(results, n) for n in counts}
    panels.draw(left, points, f"M3DT-Gradient, width {default}", RED, shift=2)
    panels.finish(left, "More tasks", "tasks", SCORE, counts)
    points = {width: queries.prompt_dt_scores(results, width=width) for width in sizes}
    panels.draw(right, points, "Prompt-DT", BLUE)
    label = f"M3DT-Gradient, {base.moe.num_experts} experts"
    panels.draw(right, setting_queries.scores_by(results, "width"), label, RED, shift=1)
    title, stated = f"Wider models, {results.medium} tasks", "paper: saturates at 160 tasks"
    panels.finish(right, title, "width", SCORE, sizes, stated)
    return figure


def domains_figure(results: Results) -> Figure:
    """Draw each domain's score over the number of tasks, by method (figure 11)."""
    domains, counts = queries.domains(results), results.task_counts
    if len(measured := results.counts_of(*METHOD_PARTS)) == 1:
        return _domains_of_one_size(results, domains, measured[0])
    titles = (*domains, _ALL_CONTROL)
    figure, every = panels.new_figure(len(titles) + 1, 3.8)
    *shown, spare = every[: len(titles) + 1]
    spare.axis("off")
    for panel, title in zip(shown, titles, strict=True):
        for i, (part, method, label) in enumerate(METHODS):
            points = {
                n: queries.control_scores(results, n, part, method)
                if title == _ALL_CONTROL
                else results.scores(part, title, suite=f"mt{n}", method=method)
                for n in counts
            }
            panels.draw(panel, points, label, _COLORS[i], shift=i - 2)
        if title == _ALL_CONTROL:
            panels.draw_paper(panel, paper.METAWORLD_DMCONTROL, "M3DT-Gradient, the paper's")
        panels.finish(panel, title, "tasks", SCORE, counts)
    panels.share_legend(shown, spare)
    return figure


def _domains_of_one_size(results: Results, domains: Sequence[str], tasks: int) -> Figure:
    figure, (axes,) = panels.new_figure(1, 7.2)
    series = []
    for (part, method, label), color in zip(METHODS, _COLORS, strict=True):
        suite = queries.suite_name(results, tasks)
        points = [results.scores(part, d, suite=suite, method=method) for d in domains]
        if any(points):
            series.append((label, color, points))
    panels.name_points(axes, domains, series)
    panels.finish(axes, f"Domains, {tasks} tasks", "", SCORE)
    return figure


def profiles_figure(results: Results) -> Figure:
    """Draw the share of tasks and seeds above each score, by method: performance profiles."""
    counts = results.task_counts
    figure, shown = panels.new_figure(len(counts))
    thresholds = np.arange(100)
    for axes, n in zip(shown, counts, strict=False):
        for (part, method, label), color in zip(METHODS, _COLORS, strict=True):
            scores = queries.all_scores(results, n, part, method)
            if len(scores):
                shares = performance_profile(scores, thresholds)
                axes.plot(thresholds, shares, color=color, label=f"{label} (n = {len(scores)})")
        axes.set_ylim(0, 1)
        panels.finish(axes, f"{n} tasks", SCORE, "share of tasks and seeds above")
    return figure
