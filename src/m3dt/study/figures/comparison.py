"""Tables 1, 6, 7 and figure 11: methods side by side."""

from __future__ import annotations

from matplotlib.figure import Figure

from m3dt.study import paper
from m3dt.study.estimates import Results, Scores, estimate
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
    panels,
    share_legend,
)
from m3dt.study.lookup import MAIN, SUITES, control, parameters, prompt_dt
from m3dt.study.markdown import markdown, measured, stated
from m3dt.tasks import DOMAINS

BASELINES = {"promptdt": "Prompt-DT", "mtdt": "MTDT", "harmodt": "HarmoDT"}
M3DT = {"m3dt-random": "M3DT-Random", "m3dt-gradient": "M3DT-Gradient"}
METHODS = (
    *(("baselines", method, title) for method, title in BASELINES.items()),
    *(("m3dt", method, title) for method, title in M3DT.items()),
)
TASKS = (10, MAIN, 160)


def methods_table(results: Results) -> str:
    """Return table 1 as Markdown: methods by number of tasks."""
    header = ["method", f"parameters, {MAIN} tasks"]
    rows = [[title, parameters(results, part, method=method)] for part, method, title in METHODS]
    scores: list[dict[int, Scores]] = [
        {n: results.scores(part, suite=SUITES[n], method=method) for n in TASKS}
        for part, method, _ in METHODS
    ]
    for width in results.values("size", "n_embd"):
        rows.append([f"Prompt-DT, width {width}", parameters(results, "size", n_embd=width)])
        scores.append({n: prompt_dt(results, n, width) for n in TASKS})
    methods = [method for _, method, _ in METHODS]
    for n in TASKS:
        header.append(f"{n} tasks")
        for row, found in zip(rows, scores, strict=True):
            row.append(measured(estimate(found[n].values())))
        if any(n in known for known in paper.SCORES.values()):
            header.append("paper")
            for row, method in zip(rows, [*methods, *[""] * len(rows)], strict=False):
                row.append(stated(paper.SCORES.get(method), n))
    return markdown(header, rows)


def best_baseline(results: Results, tasks: int, column: str = "score") -> tuple[str, Scores]:
    """Return name and scores of the best baseline of M3DT's width; empty ones if there is none."""
    found: dict[str, Scores] = {
        title: results.scores("baselines", column, suite=SUITES[tasks], method=method)
        for method, title in BASELINES.items()
    }
    known = {title: scores for title, scores in found.items() if scores}
    if not known:
        return "the baselines", {}

    def seeds_then_mean(title: str) -> tuple[int, float]:
        return len(known[title]), sum(known[title].values()) / len(known[title])

    best = max(known, key=seeds_then_mean)  # what has all seeds goes before what is unfinished
    return best, known[best]


def gain(results: Results, tasks: int, method: str) -> dict[int, float]:
    """Return what M3DT gains over the best baseline, per cent of that, by seed."""
    ours = results.scores("m3dt", suite=SUITES[tasks], method=method)
    _, best = best_baseline(results, tasks)
    return {s: 100 * (ours[s] / best[s] - 1) for s in sorted(ours.keys() & best.keys())}


def gains_table(results: Results) -> str:
    """Return M3DT's gains over the best baseline as Markdown, per cent."""
    header = ["gain over the best baseline, %"]
    rows = [[title] for title in M3DT.values()]
    for n in TASKS:
        header += [f"{n} tasks ({best_baseline(results, n)[0]})", "paper"]
        for row, method in zip(rows, M3DT, strict=True):
            row.append(measured(estimate(gain(results, n, method).values())))
            row.append(stated(paper.GAINS[method], n))
    return markdown(header, rows)


def domains_table(results: Results) -> str:
    """Return tables 6 and 7 as Markdown: methods by number of tasks and domain."""
    rows = []
    for n in TASKS:
        for part, method, title in METHODS:
            by_domain = [results.scores(part, d, suite=SUITES[n], method=method) for d in DOMAINS]
            both = control(results, n, part, method)
            scores = [measured(estimate(s.values())) for s in (*by_domain, both)]
            known = paper.METAWORLD_DMCONTROL if method == "m3dt-gradient" else None
            rows.append([str(n), title, *scores, stated(known, n)])
    return markdown(["tasks", "method", *DOMAINS, "metaworld + dmcontrol", "paper"], rows)


def domains_figure(results: Results) -> Figure:
    """Draw each domain's score over the number of tasks, by method (figure 11)."""
    figure, axes = panels(len(DOMAINS) + 1, 3.8)
    colors = (BLUE, GREEN, GREY, PINK, RED)
    for panel, domain in zip(axes, DOMAINS, strict=False):
        for place, (part, method, title) in enumerate(METHODS, -2):
            points: dict[int, Scores] = {
                n: results.scores(part, domain, suite=SUITES[n], method=method) for n in TASKS
            }
            draw(panel, points, title, colors[place + 2], place=place)
        finish(panel, domain, "tasks", SCORE, TASKS)
    both = axes[len(DOMAINS)]
    for place, (part, method, title) in enumerate(METHODS, -2):
        points = {n: control(results, n, part, method) for n in TASKS}
        draw(both, points, title, colors[place + 2], place=place)
    draw_paper(both, paper.METAWORLD_DMCONTROL, "M3DT-Gradient, the paper's")
    finish(both, "metaworld and dmcontrol together", "tasks", SCORE, TASKS)
    share_legend(axes[: len(DOMAINS) + 1], axes[len(DOMAINS) + 1])
    return figure
