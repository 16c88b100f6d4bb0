"""Tables 1, 2, 6 and 7, and the effect of two implementation choices, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from m3dt.study import paper, queries
from m3dt.study.estimates import Scores, format_scores, minus
from m3dt.study.markdown import markdown_table, stated
from m3dt.study.method_names import ABLATIONS, M3DT, METHODS, RESIDUALS, reference_method
from m3dt.study.queries import DOMAIN_TITLES, MEDIUM, SUITES, TASK_COUNTS
from m3dt.study.study_results import Results
from m3dt.tasks import DOMAINS


def methods_table(results: Results) -> str:
    """Return table 1: methods by number of tasks."""
    header = ["method", f"parameters, {MEDIUM} tasks"]
    for n in TASK_COUNTS:
        header += [f"{n} tasks", *["paper"] * _stated_anywhere(n)]
    rows = []
    for part, method, title in METHODS:
        row = [title, queries.num_parameters(results, part, method=method)]
        for n in TASK_COUNTS:
            row.append(format_scores(results.scores(part, suite=SUITES[n], method=method)))
            row += [stated(paper.SCORES.get(method, {}), n)] * _stated_anywhere(n)
        rows.append(row)
    for width in results.values("size", "n_embd"):
        row = [f"Prompt-DT, width {width}", queries.num_parameters(results, "size", n_embd=width)]
        for n in TASK_COUNTS:
            row.append(format_scores(queries.prompt_dt_scores(results, n, width)))
            row += [""] * _stated_anywhere(n)
        rows.append(row)
    return markdown_table(header, rows)


def _stated_anywhere(tasks: int) -> bool:
    return any(tasks in scores for scores in paper.SCORES.values())


def gains_table(results: Results) -> str:
    """Return M3DT's gains over the best baseline in percent."""
    header = ["gain over the best baseline, %"]
    rows = [[title] for title in M3DT.values()]
    for n in TASK_COUNTS:
        header += [f"{n} tasks ({queries.best_baseline(results, n).title})", "paper"]
        for row, method in zip(rows, M3DT, strict=True):
            row += [format_scores(queries.gain(results, n, method)), stated(paper.GAINS[method], n)]
    return markdown_table(header, rows)


def domains_table(results: Results) -> str:
    """Return tables 6 and 7: methods by number of tasks and domain."""
    rows = []
    for n in TASK_COUNTS:
        for part, method, title in METHODS:
            by_domain = [results.scores(part, d, suite=SUITES[n], method=method) for d in DOMAINS]
            columns = (*by_domain, queries.control_scores(results, n, part, method))
            known = paper.METAWORLD_DMCONTROL if method == "m3dt-gradient" else {}
            rows.append([str(n), title, *map(format_scores, columns), stated(known, n)])
    header = ["tasks", "method", *DOMAINS, "metaworld + dmcontrol", "paper"]
    return markdown_table(header, rows)


def ablations_table(results: Results) -> str:
    """Return table 2: variants of M3DT."""
    rows = []
    for method, title in ABLATIONS.items():
        scores, reference = queries.ablation_scores(results, method), reference_method(method)
        change = ""
        if method != reference:
            change = format_scores(minus(scores, queries.ablation_scores(results, reference)))
            change += f" ({ABLATIONS[reference]})"
        rows.append([title, format_scores(scores), change, stated(paper.ABLATIONS, method)])
    header = ["normalized score", "difference from M3DT, by seed", "paper, 160 tasks"]
    return markdown_table([f"{MEDIUM} tasks", *header], rows)


def residual_table(results: Results) -> str:
    """Return scores by where the experts' output is added, over all tasks and by domain."""
    return _pair_table(results, "experts are added", RESIDUALS, queries.residual_scores)


def timestep_table(results: Results) -> str:
    """Return scores by the initial timestep embeddings (deviation 8 of the README)."""
    labels = (f"N(0, {queries.base().model.timestep_std}^2)", "N(0, 1) (the published code)")
    return _pair_table(results, "initial timestep embeddings", labels, queries.timestep_scores)


def _pair_table(
    results: Results,
    header: str,
    labels: Sequence[str],
    scores: Callable[[Results, str], tuple[Scores, Scores]],
) -> str:
    pairs = [scores(results, column) for column in DOMAIN_TITLES]
    rows = [[label, *(format_scores(pair[i]) for pair in pairs)] for i, label in enumerate(labels)]
    rows.append(["difference, by seed", *(format_scores(minus(*pair)) for pair in pairs)])
    return markdown_table([header, *DOMAIN_TITLES.values()], rows)
