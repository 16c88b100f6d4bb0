"""Figure 11: scores by domain."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from m3dt.study import paper, queries
from m3dt.study.estimates import Scores
from m3dt.study.figures import panels
from m3dt.study.figures.panels import BLUE, GREEN, GREY, PINK, RED, SCORE
from m3dt.study.method_names import METHODS
from m3dt.study.queries import SUITES, TASK_COUNTS
from m3dt.study.study_results import Results
from m3dt.tasks import DOMAINS

_COLORS = (BLUE, GREEN, GREY, PINK, RED)
_ALL_CONTROL = "metaworld and dmcontrol together"


def domains_figure(results: Results) -> Figure:
    """Draw each domain's score over the number of tasks, by method (figure 11)."""
    titles = (*DOMAINS, _ALL_CONTROL)
    figure, axes = panels.new_figure(len(titles), 3.8)
    for panel, title in zip(axes, titles, strict=False):
        _draw_methods(panel, results, title)
        if title == _ALL_CONTROL:
            panels.draw_paper(panel, paper.METAWORLD_DMCONTROL, "M3DT-Gradient, the paper's")
        panels.finish(panel, title, "tasks", SCORE, TASK_COUNTS)
    panels.share_legend(axes[: len(titles)], axes[len(titles)])
    return figure


def _draw_methods(panel: Axes, results: Results, title: str) -> None:
    for i, (part, method, label) in enumerate(METHODS):
        points: dict[int, Scores] = {
            n: queries.control_scores(results, n, part, method)
            if title == _ALL_CONTROL
            else results.scores(part, title, suite=SUITES[n], method=method)
            for n in TASK_COUNTS
        }
        panels.draw(panel, points, label, _COLORS[i], shift=i - 2)
