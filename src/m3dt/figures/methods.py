"""Tables 1, 2, 6, 7 and figure 11: methods and ablations side by side."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from m3dt.figures.results import Estimate, Results
from m3dt.figures.scaling import BLUE, GREEN, GREY, PINK, RED, draw, finish, panels
from m3dt.tasks import DOMAINS

METHODS = (
    ("baselines", "promptdt", "Prompt-DT"),
    ("baselines", "mtdt", "MTDT"),
    ("baselines", "harmodt", "HarmoDT"),
    ("m3dt", "m3dt-random", "M3DT-Random"),
    ("m3dt", "m3dt-gradient", "M3DT-Gradient"),
)
ABLATIONS = (
    ("m3dt", "m3dt-gradient", "M3DT-Gradient"),
    ("m3dt", "m3dt-random", "M3DT-Random"),
    ("ablations", "m3dt-end-to-end", "without 3-stage"),
    ("ablations", "m3dt-ungrouped", "without grouping"),
    ("ablations", "m3dt-unfrozen-gradient", "without expert freezing (gradient)"),
    ("ablations", "m3dt-unfrozen-random", "without expert freezing (random)"),
    ("ablations", "m3dt-big-experts", "big experts"),
)
_SUITES = ("mt10", "mt80", "mt160")


def methods_table(results: Results) -> str:
    """Return table 1 as Markdown: methods by 10, 80 and 160 tasks."""
    header = ["method", "parameters", *(f"{suite.removeprefix('mt')} tasks" for suite in _SUITES)]
    rows = []
    for part, method, title in METHODS:
        cells = [results.estimate(part, suite=suite, method=method) for suite in _SUITES]
        sizes = results.scores(part, "parameters", suite="mt160", method=method)
        size = f"{next(iter(sizes.values())):,.0f}" if sizes else ""
        rows.append([title, size, *map(_text, cells)])
    for width in (32, 128):
        cells = [results.estimate("size", suite=suite, n_embd=width) for suite in _SUITES]
        sizes = results.scores("size", "parameters", suite="mt160", n_embd=width)
        size = f"{next(iter(sizes.values())):,.0f}" if sizes else ""
        rows.append([f"Prompt-DT, width {width}", size, *map(_text, cells)])
    return markdown(header, rows)


def ablations_table(results: Results) -> str:
    """Return table 2 as Markdown: ablations on 160 tasks."""
    rows = [
        [title, _text(results.estimate(part, suite="mt160", method=method))]
        for part, method, title in ABLATIONS
    ]
    return markdown(["160 tasks", "normalized score"], rows)


def domains_table(results: Results, suite: str = "mt160") -> str:
    """Return tables 6 and 7 as Markdown: methods by domain."""
    rows = [
        [title, *(_text(results.estimate(part, d, suite=suite, method=method)) for d in DOMAINS)]
        for part, method, title in METHODS
    ]
    return markdown(["method", *DOMAINS], rows)


def domains_figure(results: Results) -> Figure:
    """Draw each domain's score over the number of tasks, by method (figure 11)."""
    figure, axes = panels(4, 3.4)
    colors = (BLUE, GREEN, GREY, PINK, RED)
    for panel, domain in zip(axes, DOMAINS, strict=True):
        for (part, method, title), color in zip(METHODS, colors, strict=True):
            points = {
                float(suite.removeprefix("mt")): results.estimate(
                    part, domain, suite=suite, method=method
                )
                for suite in _SUITES
            }
            draw(panel, points, title if domain == DOMAINS[0] else "", color)
        finish(panel, domain, "tasks", "normalized score", (10, 80, 160))
    return figure


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _text(value: Estimate | None) -> str:
    return "" if value is None else str(value)
