"""Figures 2, 5, 7, 12: agreement of gradients over tasks and training, in experts and modules."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from m3dt.plots.palette import BLUE, GREEN, GREY, PINK, RED
from m3dt.study import conflict_queries as queries
from m3dt.study.conflict_queries import Agreement, Similarity
from m3dt.study.estimates import NOT_MEASURED
from m3dt.study.figures import panels
from m3dt.study.figures.panels import SCORE
from m3dt.study.paper import PROMPT_DT
from m3dt.study.queries import suite_name
from m3dt.study.study_results import ConflictRecord, Results


def similarity_figure(results: Results) -> Figure:
    """Draw gradient similarity over the number of tasks, biased, spread and unbiased (figure 2)."""
    figure, (left, middle, right) = panels.new_figure(3, 4.6)
    counts = sorted({*results.task_counts, *results.counts_of("tasks")})
    series: tuple[tuple[Axes, Similarity, str, str, str], ...] = (
        (left, "to_mean", "to the mean gradient, with the task itself", BLUE, "o-"),
        (left, "independent", "independent gradients: 1/sqrt(N)", GREY, "o:"),
        (middle, "spread", "standard deviation over tasks", BLUE, "o-"),
        (right, "leave_one_out", "to the mean of the others", RED, "o-"),
        (right, "pairwise", "between pairs", GREEN, "o-"),
    )
    for panel, measure, label, color, style in series:
        points = {n: queries.final_similarity(results, n, measure) for n in counts}
        panels.draw(panel, points, label, color, style)
    panels.finish(left, "As the paper measures it", "tasks", "mean cosine", counts,
           "paper: falls with tasks")  # fmt: skip
    panels.finish(middle, "Its spread", "tasks", "of cos(g_i, G)", counts)
    panels.finish(right, "What remains", "tasks", "mean cosine", counts,
           "a question of ours: 0 for independent gradients at any N")  # fmt: skip
    return figure


def conflict_figure(results: Results) -> Figure:
    """Draw the conflict during the backbone's training (figures 2 and 7)."""
    figure, (left, right) = panels.new_figure(2)
    found = queries.backbone_histories(results).values()
    draw_curve(left, found, lambda r: r["mean"], "all parameters", BLUE)
    draw_curve(left, found, lambda r: r["parts"]["attention"], "attention", GREEN)
    draw_curve(left, found, lambda r: r["parts"]["mlp"], "MLP", PINK)
    draw_curve(left, found, lambda r: 1 - r["independent"], "independent: 1 - 1/sqrt(N)", GREY, ":")
    panels.finish(left, "Conflict, as the paper defines it", "step", "1 - cos(g_i, G)",
           paper="paper: rises to a peak at about 400k steps")  # fmt: skip
    draw_curve(right, found, lambda r: 1 - r["mean"], "to the mean gradient (the paper's)", BLUE)
    draw_curve(right, found, lambda r: r["leave_one_out"], "to the mean of the others", RED)
    draw_curve(right, found, lambda r: r["independent"], "1/sqrt(N)", GREY, ":")
    stated = "a question of ours"
    panels.finish(right, "How much of it is real", "step", "mean cosine", paper=stated)
    return figure


def draw_curve(
    axes: Axes,
    histories: Collection[Sequence[ConflictRecord]],
    value: Callable[[ConflictRecord], float],
    label: str,
    color: str,
    style: str = "-",
) -> None:
    """Draw the mean of the seeds' curves over their common steps, and each curve faintly."""
    curves = [{r["step"]: value(r) for r in records} for records in histories]
    if not curves:
        axes.plot([], [], style, color=color, label=f"{label} ({NOT_MEASURED})")
        return
    if len(curves) > 1:
        for curve in curves:
            axes.plot(list(curve), list(curve.values()), color=color, alpha=0.2, linewidth=0.8)
    steps = sorted(set.intersection(*map(set, curves)))
    means = [float(np.mean([curve[step] for curve in curves])) for step in steps]
    axes.plot(steps, means, style, color=color, label=label, linewidth=1.6)


def expert_conflict_figure(results: Results) -> Figure:
    """Draw the conflict inside trained experts, with and without groups (figure 5)."""
    figure, (left, right) = panels.new_figure(2)
    methods = {"m3dt-gradient": "gradient\ngroups", "m3dt-random": "random\ngroups",
               "m3dt-ungrouped": "no\ngroups"}  # fmt: skip
    *grouped, _ = methods
    if queries.expert_agreement(results, "m3dt-end-to-end", "all", "conflict"):
        methods["m3dt-end-to-end"] = "end\nto end"
    measures: tuple[tuple[Axes, Agreement], ...] = ((left, "conflict"), (right, "leave_one_out"))
    for panel, measure in measures:
        within = [queries.expert_agreement(results, m, "grouped", measure) for m in grouped]
        between = [queries.expert_agreement(results, m, "all", measure) for m in methods]
        series = [("within each group", RED, within), ("between all tasks", BLUE, between)]
        panels.name_points(panel, list(methods.values()), series)
    panels.finish(left, "Conflict in the experts' parameters", "", "1 - cos(g_i, G)",
           paper="question: is it lower within groups?")  # fmt: skip
    panels.finish(right, "0 for independent gradients", "", "cos(g_i, mean of the others)",
           paper="a question of ours")  # fmt: skip
    return figure


def modules_figure(results: Results) -> Figure:
    """Draw score and conflict with attention or MLP widened alone (figure 12)."""
    figure, (left, middle, right) = panels.new_figure(3, 4.2)
    models = queries.widened_models(results).values()
    titles = [model.title for model in models]
    panels.name_points(left, titles, [("", BLUE, [model.scores for model in models])])
    panels.finish(left, f"One module widened, {results.medium} tasks", "", SCORE,
                  paper="paper: the MLP helps first")  # fmt: skip
    by_module = [
        (label, color, [queries.module_conflict(results, model.cell, module) for model in models])
        for module, label, color in (("attention", "attention", GREEN), ("mlp", "MLP", PINK))
    ]
    panels.name_points(middle, titles, by_module)
    panels.finish(middle, "Conflict at the end, by module", "", "1 - cos(g_i, G)",
                  paper="paper: higher in MLPs")  # fmt: skip
    cell, blocks = f"{suite_name(results)}_{PROMPT_DT}", range(results.base.model.n_layer)
    by_block = [queries.module_conflict(results, cell, f"block{i}") for i in blocks]
    panels.name_points(right, [str(i + 1) for i in blocks], [("", BLUE, by_block)])
    panels.finish(right, "and by block, as it is", "block", "1 - cos(g_i, G)")
    return figure
