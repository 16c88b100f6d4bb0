"""Table 2, figures 7 and 9: what M3DT owes to its parts; and two questions of ours."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from m3dt.study import paper
from m3dt.study.estimates import Results, Scores, difference, estimate
from m3dt.study.figures.panels import BLUE, RED, SCORE, draw, finish, name_points, panels
from m3dt.study.lookup import MAIN, SUITES, base, by_backbone_steps, by_top_k, m3dt
from m3dt.study.markdown import markdown, measured, stated
from m3dt.tasks import DOMAINS

ABLATIONS = {
    "m3dt-gradient": "M3DT-Gradient",
    "m3dt-random": "M3DT-Random",
    "m3dt-end-to-end": "without 3-stage",
    "m3dt-ungrouped": "without grouping",
    "m3dt-unfrozen-gradient": "without expert freezing (gradient)",
    "m3dt-unfrozen-random": "without expert freezing (random)",
    "m3dt-big-experts": "big experts",
}
_RESIDUALS = ("to h (equations 3 and 4)", "to LN(h) (the published code)")
_TIMESTEPS = (f"N(0, {base().model.timestep_std}^2)", "N(0, 1) (the published code)")
_COLUMNS = ("score", *DOMAINS)


def ablation(results: Results, method: str) -> Scores:
    """Return the scores of M3DT or a variant of it."""
    part = "m3dt" if method in ("m3dt-gradient", "m3dt-random") else "ablations"
    return results.scores(part, suite=SUITES[MAIN], method=method)


def whole(method: str) -> str:
    """Return which M3DT a variant is to be compared with: that of the same groups.

    Variants without groups stand beside M3DT-Random, as in the paper.
    """
    grouped_by_gradient = "gradient" in method or method in ("m3dt-big-experts", "m3dt-top-k")
    return "m3dt-gradient" if grouped_by_gradient else "m3dt-random"


def ablations_table(results: Results) -> str:
    """Return table 2 as Markdown: ablations."""
    rows = []
    for method, title in ABLATIONS.items():
        scores, of = ablation(results, method), whole(method)
        change = measured(difference(scores, ablation(results, of))) if method != of else ""
        beside = f"{change} ({ABLATIONS[of]})" if change else ""
        told = stated(paper.ABLATIONS, method)
        rows.append([title, measured(estimate(scores.values())), beside, told])
    header = [
        f"{MAIN} tasks",
        "normalized score",
        "beside M3DT, by seed",
        "paper, 160 tasks",
    ]
    return markdown(header, rows)


def stopping_figure(results: Results) -> Figure:
    """Draw the scores of backbone and M3DT over the backbone's steps (figure 7)."""
    figure, (axes,) = panels(1, 5.8)
    draw(axes, by_backbone_steps(results, "backbone"), "backbone alone", BLUE)
    draw(axes, by_backbone_steps(results), "M3DT", RED, place=1)
    told = "paper: best at the conflict peak, about 400k; worse at 200k and from 600k on"
    steps = list(by_backbone_steps(results))
    finish(
        axes, f"When the backbone stops, {MAIN} tasks", "steps of the backbone", SCORE, steps, told
    )
    return figure


def top_k_figure(results: Results) -> Figure:
    """Draw the score of noisy top-k routers beside the dense one (figure 9)."""
    figure, (axes,) = panels(1, 5.8)
    chosen, every = by_top_k(results), base().moe.num_experts
    draw(axes, chosen, "noisy top-k", BLUE)
    draw(axes, {every: m3dt(results)}, f"all {every} experts, weighed", RED)
    ticks = [*chosen, every]
    finish(axes, f"Noisy top-k routers, {MAIN} tasks", "experts a token goes to", SCORE, ticks)
    return figure


def residuals(results: Results, column: str = "score") -> tuple[Scores, Scores]:
    """Return M3DT's scores with experts added to h, and with experts added to LN(h)."""
    return m3dt(results, column=column), results.scores("residual", column, residual="official")


def timesteps(results: Results, column: str = "score") -> tuple[Scores, Scores]:
    """Return Prompt-DT's scores with timestep tables that begin small, and with N(0, 1)."""
    small = results.scores("baselines", column, suite=SUITES[MAIN], method="promptdt")
    return small, results.scores("timestep", column)


def residual_figure(results: Results) -> Figure:
    """Draw scores with experts added to h, and to LN(h) (deviation 1 of the README)."""
    figure, (axes,) = panels(1, 7.2)
    both = [residuals(results, column) for column in _COLUMNS]
    series = [
        (label, color, [pair[i] for pair in both])
        for i, (label, color) in enumerate(zip(_RESIDUALS, (RED, BLUE), strict=True))
    ]
    name_points(axes, [f"all {MAIN} tasks", *DOMAINS], series)
    finish(axes, "What experts are added to", "", SCORE, paper="a question of ours")
    return figure


def residual_table(results: Results) -> str:
    """Return as Markdown which residual is better by how much, over all tasks and by domain."""
    both = [residuals(results, column) for column in _COLUMNS]
    return _beside("experts are added", _RESIDUALS, both)


def timestep_table(results: Results) -> str:
    """Return the same of timestep tables (deviation 8 of the README)."""
    both = [timesteps(results, column) for column in _COLUMNS]
    return _beside("timesteps begin as", _TIMESTEPS, both)


def _beside(header: str, labels: Sequence[str], both: Sequence[tuple[Scores, Scores]]) -> str:
    rows = [
        [label, *(measured(estimate(pair[i].values())) for pair in both)]
        for i, label in enumerate(labels)
    ]
    rows.append(["difference, by seed", *(measured(difference(*pair)) for pair in both)])
    return markdown([header, f"all {MAIN} tasks", *DOMAINS], rows)
