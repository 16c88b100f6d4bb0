"""Figures 6 to 10, the residual, and returns: scores over the choices of a method."""

from statistics import fmean

from matplotlib.figure import Figure

from m3dt.plots.palette import BLUE, GREY, METHOD_COLORS, ORANGE, PINK, RED, SKY
from m3dt.study import paper, queries, setting_queries
from m3dt.study.cell_results import RETURN
from m3dt.study.figures import panels
from m3dt.study.figures.panels import SCORE
from m3dt.study.paper import BASELINES, M3DT, RESIDUALS
from m3dt.study.study_results import Results

_SHARE = "share of the target asked for"


def experts_figure(results: Results) -> Figure:
    """Draw M3DT, oracle and backbone over the number of experts, by tasks (figures 6 and 8)."""
    counts = sorted({results.medium, *results.counts_of("experts")})
    figure, shown = panels.new_figure(len(counts), 5.0)
    for axes, tasks in zip(shown, counts, strict=False):
        routed, oracle = (
            setting_queries.scores_by(results, "experts", column, tasks)
            for column in ("score", "oracle")
        )
        panels.draw(axes, oracle, "oracle: own group's expert", GREY, "s--")
        panels.draw(axes, routed, "router", RED, shift=1)
        backbone = queries.m3dt_scores(results, tasks, "backbone")
        if backbone:
            axes.axhline(fmean(backbone.values()), color=SKY, linestyle=":", label="backbone alone")
        stated = "paper: more experts add {} to {} %".format(*paper.MORE_EXPERTS)
        title = f"Number of experts, {tasks} tasks"
        panels.finish(axes, title, "experts", SCORE, list(routed), stated)
    return figure


def stopping_figure(results: Results) -> Figure:
    """Draw scores over a training, and over the steps after which a backbone stops (figure 7)."""
    figure, (left, right) = panels.new_figure(2)
    trained = setting_queries.scores_over_training(results)
    panels.draw(left, trained, "Prompt-DT, as the backbone", BLUE)
    panels.finish(left, f"During training, {results.medium} tasks", "step", SCORE, list(trained))
    alone, points = (
        setting_queries.scores_by(results, "backbone", c) for c in ("backbone", "score")
    )
    panels.draw(right, alone, "backbone alone", SKY)
    panels.draw(right, points, "M3DT", RED, shift=1)
    title, x_label = f"When the backbone stops, {results.medium} tasks", "steps of the backbone"
    stated = "paper: best at about 400k, the peak of conflict"
    panels.finish(right, title, x_label, SCORE, list(points), stated)
    return figure


def width_figure(results: Results) -> Figure:
    """Draw the scores of backbone, oracle and M3DT over the width (figure 8)."""
    figure, (axes,) = panels.new_figure(1, 5.8)
    for shift, column, label, color, style in (
        (-1, "backbone", "backbone", SKY, "o-"),
        (0, "oracle", "oracle", GREY, "s--"),
        (1, "score", "router", RED, "o-"),
    ):
        points = setting_queries.scores_by(results, "width", column)
        panels.draw(axes, points, label, color, style, shift)
    title = f"{results.base.moe.num_experts} experts of growing width, {results.medium} tasks"
    stated = "paper: the oracle is an upper bound"
    panels.finish(axes, title, "width", SCORE, list(points), stated)
    return figure


def expert_shape_figure(results: Results) -> Figure:
    """Draw M3DT's scores with few wide and many narrow experts of equal size together."""
    figure, (axes,) = panels.new_figure(1, 5.8)
    shapes = setting_queries.scores_by_expert_shape(results)
    panels.name_points(axes, list(shapes), [("", RED, list(shapes.values()))])
    panels.finish(axes, "As many parameters in experts", "experts x width", SCORE,
                  paper="a question of ours: which shape is best?")  # fmt: skip
    return figure


def shape_figure(results: Results) -> Figure:
    """Draw the scores of Prompt-DT in shapes of about equal size (figure 10)."""
    shapes = setting_queries.scores_by_shape(results)
    figure, (axes,) = panels.new_figure(1, 5.8)
    if len(shapes) > 1:
        panels.name_points(axes, list(shapes), [("", BLUE, list(shapes.values()))])
    title = f"Prompt-DT of equal size, {results.medium} tasks"
    panels.finish(axes, title, "layers x heads x width", SCORE)
    return figure


def top_k_figure(results: Results) -> Figure:
    """Draw noisy top-k routers over k, and over the number of experts (figure 9)."""
    figure, (left, right) = panels.new_figure(2)
    usual = results.base.moe.num_experts
    top_k, tasks = setting_queries.scores_by_top_k(results), results.medium
    panels.draw(left, top_k, "noisy top-k", ORANGE)
    panels.draw(left, {usual: queries.m3dt_scores(results)}, f"all {usual} experts, weighed", RED)
    title, x_label = f"Noisy top-k routers, {tasks} tasks", "experts a token goes to"
    panels.finish(left, title, x_label, SCORE, sorted({*top_k, usual}))
    counts = sorted({*results.values("top-k", "num_experts"), usual})
    if len(counts) > 1:
        by_count = {count: setting_queries.scores_by_top_k(results, count) for count in counts}
        for k, style in zip(
            sorted(set().union(*by_count.values())), ("o-", "s--", "^:"), strict=False
        ):
            panels.draw(
                right, {n: by_count[n].get(k, {}) for n in counts}, f"top {k}", ORANGE, style
            )
        routed = setting_queries.scores_by(results, "experts")
        panels.draw(right, {n: routed.get(n, {}) for n in counts}, "all experts, weighed", RED)
    panels.finish(right, f"Over the number of experts, {tasks} tasks", "experts", SCORE, counts)
    return figure


def residual_figure(results: Results) -> Figure:
    """Draw the scores with experts added to h, and to LN(h), by domain (docs/deviations.md, 1)."""
    figure, (axes,) = panels.new_figure(1, 7.2)
    titles = queries.domain_titles(results)
    to_h, official = zip(
        *(setting_queries.residual_scores(results, c) for c in titles), strict=True
    )
    series = [(RESIDUALS[0], RED, to_h), (RESIDUALS[1], PINK, official)]
    panels.name_points(axes, list(titles.values()), series if any(official) else [])
    panels.finish(axes, "What experts are added to", "", SCORE, paper="a question of ours")
    return figure


def returns_figure(results: Results) -> Figure:
    """Draw returns asked for against returns achieved, and against scores, by domain."""
    methods, domains = {**BASELINES, **M3DT}, queries.domains(results)
    figure, shown = panels.new_figure(2 * len(domains), 3.8, columns=len(domains))
    for panel, (column, domain) in zip(
        shown, [(d + RETURN, d) for d in domains] + [(d, d) for d in domains], strict=True
    ):
        achieved = column != domain
        for method, title in methods.items():
            points = setting_queries.scores_by_target(results, method, column)
            if points:
                panels.draw(panel, points, title, METHOD_COLORS[method])
        if achieved and panel.lines:
            panel.axline((0, 0), slope=1, color=GREY, linestyle=":", linewidth=1)
        panels.finish(panel, domain, _SHARE, "share of the target achieved" if achieved else SCORE)
    return figure
