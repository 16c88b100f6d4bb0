"""What documents say of scores by run, model and task, as Markdown."""

from collections.abc import Mapping, Sequence

import numpy as np

from m3dt.study import aggregates
from m3dt.study.aggregates import Measured, measure
from m3dt.study.estimates import p_text, t_tests
from m3dt.study.score_rows import Compared, arrays_of, by_model, compared
from m3dt.study.tables import markdown_table
from m3dt.utils.counts import counted

_MARGIN = 1.0  # points below that count as no worse


def result_texts(rows: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return the texts of a table of scores by name.

    Returns:
        `scores`, means over runs by task and model; `means`, those over runs and tasks; `against
        MODEL`, the table of `m3dt compare`; and for each two models, such as `router - backbone`,
        their paired difference with its verdict. Models that lack a run or a task are left out.
    """
    scores = by_model(rows)
    cells = set().union(*scores.values())
    models = [name for name, own in scores.items() if set(own) == cells]
    if not models:
        return {}
    arrays, (runs, tasks) = arrays_of(scores, models)
    texts = {
        "scores": _scores_table(arrays, runs, tasks),
        "means": _means_table(arrays, len(runs), len(tasks)),
    }
    for other in models:
        found = compared(rows, models, other, _MARGIN)
        texts[f"against {other}"] = _against(found, other)
        for one in found:
            if one.difference:
                tests = (
                    f"bootstrap over {counted(len(runs), 'run')} and {counted(len(tasks), 'task')}"
                )
                tests += _t_test(arrays[one.model] - arrays[other])
                text = f"**{one.verdict}**, {_line(one.difference, '+.1f')} points ({tests})"
                texts[f"{one.model} - {other}"] = text
    return texts


def _t_test(differences: np.ndarray) -> str:
    """Return the t test of differences, (R, N), whose R observations are the means of runs.

    With few runs, a bootstrap is too narrow.
    """
    by_run = dict(enumerate(differences.mean(axis=1).tolist()))
    (p,) = t_tests([by_run])
    return "" if p is None else f"; t test over runs, {p_text(p)}"


def _scores_table(
    arrays: Mapping[str, np.ndarray], runs: Sequence[str], tasks: Sequence[str]
) -> str:
    by_task = [
        [task, *(f"{own[:, n].mean():.0f}" for own in arrays.values())]
        for n, task in enumerate(tasks)
    ]
    means = [_line(measure(aggregates.mean, own), ".1f") for own in arrays.values()]
    last = ["**mean over tasks**", *(f"**{mean}**" for mean in means)]
    header = [f"score, mean of {counted(len(runs), 'seed')}", *arrays]
    return markdown_table(header, [*by_task, last]).rstrip("\n")


def _means_table(arrays: Mapping[str, np.ndarray], num_runs: int, num_tasks: int) -> str:
    rows = [
        [f"`{name}`", _line(measure(aggregates.mean, own), ".1f")] for name, own in arrays.items()
    ]
    size = f"{counted(num_runs, 'seed')} and {counted(num_tasks, 'task')}"
    header = ["model", f"score, mean of {size}"]
    return markdown_table(header, rows).rstrip("\n")


def _against(found: Sequence[Compared], other: str) -> str:
    header = ["model", "mean", "IQM", f"minus {other}", "P(better)", "verdict", "MFLOP"]
    rows = [
        [
            one.model,
            _line(one.mean, ".1f"),
            _line(one.middle, ".1f"),
            _line(one.difference, "+.1f") if one.difference else "",
            _line(one.better, ".0%", ".0%") if one.better else "",
            one.verdict,
            f"{one.mflop:,.1f}",
        ]
        for one in found
    ]
    return markdown_table(header, rows).rstrip("\n")


def _line(measured: Measured, form: str, of_ends: str = ".1f") -> str:
    """Return a statistic and its interval on one line."""
    return measured.text(form, of_ends).replace("\n", " ")
