"""Markdown tables: tables 1, 2, 6, 7, two implementation choices, and models task by task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from m3dt.study import paper, queries, setting_queries
from m3dt.study.design import num_tasks
from m3dt.study.estimates import NOT_MEASURED, Scores, clustered_estimate, format_scores, minus
from m3dt.study.paper import (
    ABLATIONS,
    BASELINES,
    CLONING,
    M3DT,
    METHODS,
    PROMPT_DT,
    reference_method,
)
from m3dt.study.study_results import Results
from m3dt.tasks import DOMAINS

_NAMES = BASELINES | ABLATIONS | {"m3dt-top-k": "noisy top-k"}
_POINT = 1.0  # the least difference of scores that counts as better or worse


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _stated(values: Mapping[Any, float], key: object) -> str:
    """Return a number of the paper as text, empty if the paper does not state it."""
    return f"{values[key]:g}" if key in values else ""


def methods_table(results: Results) -> str:
    """Return table 1: methods by number of tasks."""
    in_paper = {n for scores in paper.SCORES.values() for n in scores}
    header = ["normalized score", f"parameters, {results.medium} tasks"]
    for n in results.task_counts:
        header += [f"{n} tasks", *["paper"] * (n in in_paper)]
    rows = []
    for part, method, title in METHODS:
        row = [title, queries.num_parameters(results, part, method=method)]
        for n in results.task_counts:
            row.append(format_scores(results.scores(part, suite=f"mt{n}", method=method)))
            row += [_stated(paper.SCORES.get(method, {}), n)] * (n in in_paper)
        rows.append(row)
    return markdown_table(header, rows)


def acting_table(results: Results) -> str:
    """Return who acts with the same experts, and what others make of as many segments.

    What has no result yet is left out.
    """
    suite, gradient = queries.suite_name(results), "m3dt-gradient"
    loss = "val/loss {}".format
    rows: list[tuple[str, str, str, str, str]] = [
        ("backbone", "m3dt", gradient, "backbone", loss("backbone")),
        ("M3DT, the paper's routers", "m3dt", gradient, "score", loss("router")),
        ("M3DT, each task's own expert", "m3dt", gradient, "oracle", loss("expert")),
        ("M3DT, router by the prompt", "prompt", gradient, "score", ""),
        ("the same, random groups", "prompt", "m3dt-random", "score", ""),
        *((title, "baselines", method, "score", loss("baseline"))
          for method, title in {**BASELINES, **CLONING}.items()),
        ("HarmoDT, 7 % of the masks exchanged", "masks", "harmodt", "score", loss("baseline")),
    ]  # fmt: skip
    table = []
    for title, part, method, column, losses in rows:
        own = {"suite": suite, "method": method}
        found = results.scores(part, losses, **own) if losses else {}
        thousandths = {seed: 1000 * value for seed, value in found.items()}
        scores = results.scores(part, column, **own)
        if scores:
            shown = format_scores(thousandths) if found else ""
            table.append([title, format_scores(scores), shown])
    return markdown_table(["what acts", "normalized score", "held-out loss, thousandths"], table)


def widths_table(results: Results) -> str:
    """Return the scores of Prompt-DT by width (figure 3)."""
    counts = results.counts_of("size") or [results.medium]
    rows = []
    for width in queries.widths(results):
        part = "size" if width != results.base.model.n_embd else "baselines"
        given = {"n_embd": width} if part == "size" else {"method": PROMPT_DT}
        scores = [queries.prompt_dt_scores(results, n, width) for n in counts]
        size = queries.num_parameters(results, part, **given)
        rows.append([str(width), size, *map(format_scores, scores)])
    header = ["width of Prompt-DT", f"parameters, {results.medium} tasks"]
    return markdown_table([*header, *(f"{n} tasks" for n in counts)], rows)


def gains_table(results: Results) -> str:
    """Return M3DT's gains over the best baseline in percent."""
    header = ["gain over the best baseline, %"]
    rows = [[title] for title in M3DT.values()]
    for n in results.task_counts:
        header += [f"{n} tasks ({queries.best_baseline(results, n).title})", "paper"]
        for row, method in zip(rows, M3DT, strict=True):
            gain = format_scores(queries.gain(results, n, method))
            row += [gain, _stated(paper.GAINS[method], n)]
    return markdown_table(header, rows)


def domains_table(results: Results) -> str:
    """Return tables 6 and 7: methods by number of tasks and domain."""
    rows = []
    for n in results.task_counts:
        for part, method, title in METHODS:
            by_domain = [results.scores(part, d, suite=f"mt{n}", method=method) for d in DOMAINS]
            columns = (*by_domain, queries.control_scores(results, n, part, method))
            known = paper.METAWORLD_DMCONTROL if method == "m3dt-gradient" else {}
            rows.append([str(n), title, *map(format_scores, columns), _stated(known, n)])
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
        rows.append([title, format_scores(scores), change, _stated(paper.ABLATION_SCORES, method)])
    header = ["normalized score", "difference from M3DT, by seed", "paper, 160 tasks"]
    return markdown_table([f"{results.medium} tasks", *header], rows)


def residual_table(results: Results) -> str:
    """Return scores by where the experts' output is added, over all tasks and by domain."""
    return _pair_table(
        results, "experts are added", paper.RESIDUALS, setting_queries.residual_scores
    )


def timestep_table(results: Results) -> str:
    """Return scores by the initial timestep embeddings (docs/deviations.md, 8)."""
    labels = (f"N(0, {results.base.model.timestep_std}^2)", "N(0, 1) (the published code)")
    return _pair_table(
        results, "initial timestep embeddings", labels, setting_queries.timestep_scores
    )


def _pair_table(
    results: Results,
    header: str,
    labels: Sequence[str],
    scores: Callable[[Results, str], tuple[Scores, Scores]],
) -> str:
    titles = queries.domain_titles(results)
    pairs = [scores(results, column) for column in titles]
    rows = [[label, *(format_scores(pair[i]) for pair in pairs)] for i, label in enumerate(labels)]
    rows.append(["difference, by seed", *(format_scores(minus(*pair)) for pair in pairs)])
    return markdown_table([header, *titles.values()], rows)


def paired_table(results: Results) -> str:
    """Return methods against Prompt-DT, and variants of M3DT against M3DT, task by task.

    The interval is that of a mean over n independent tasks. It leaves out the variance between
    trainings, which all tasks of a training share; the claims compare whole seeds instead.
    """
    groups: dict[tuple[int, str, str], list[Mapping[str, str]]] = {}
    for row in results.rows:
        if row["part"] != "tasks" and (row["part"], row["method"]) != ("baselines", PROMPT_DT):
            settings = [f"{name}={value}" for name, value in row.items() if "." in name and value]
            label = ", ".join([_NAMES.get(row["method"], row["method"]), *settings])
            group = num_tasks(results.suite_of(row)), label, _reference(row)
            groups.setdefault(group, []).append(row)
    rows = []
    for (tasks, label, method), cells in sorted(groups.items(), key=lambda item: item[0][0]):
        found = _differences(results, cells)
        x = np.array([d for seeds in found.values() for d in seeds])
        measured = [NOT_MEASURED, "", ""]
        if len(found) > 1:
            better, worse = (x > _POINT).sum(), (x < -_POINT).sum()
            measured = [clustered_estimate(list(found.values())).text(), str(better), str(worse)]
        rows.append([str(tasks), label, _NAMES[method], str(len(x)), *measured])
    header = [
        "tasks", "method", "compared with", "tasks x seeds", "difference [95 % over tasks]",
        "better by a point", "worse",
    ]  # fmt: skip
    return markdown_table(header, rows)


def _reference(row: Mapping[str, str]) -> str:
    """Return the method that a cell is compared with."""
    variant = row["part"] != "m3dt" and row["method"].startswith("m3dt")
    return reference_method(row["method"]) if variant else PROMPT_DT


def _differences(results: Results, cells: Sequence[Mapping[str, str]]) -> dict[str, list[float]]:
    """Return by task, for each seed, the score of cells minus that of their reference."""
    found: dict[str, list[float]] = {}
    for row in cells:
        method = _reference(row)
        part = "baselines" if method == PROMPT_DT else "m3dt"
        references = results.task_scores(part, suite=results.suite_of(row), method=method)
        ours, theirs = results.tasks.get(row["cell"], {}), references.get(int(row["seed"]), {})
        for task in ours.keys() & theirs.keys():
            found.setdefault(task, []).append(ours[task] - theirs[task])
    return found
