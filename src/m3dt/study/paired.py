"""Compare models of the same runs on the same tasks."""

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from m3dt.study import aggregates, tables
from m3dt.study.aggregates import measure
from m3dt.utils.errors import UserError, nearest
from m3dt.utils.files import atomic_path, read_json
from m3dt.utils.output_files import check_output

COLUMNS = ("run", "model", "task", "score", "mflop", "ms")
Scores = dict[str, dict[tuple[str, str], float]]  # by model, then by run and task


def read_scores(sources: Iterable[Path]) -> list[dict[str, str]]:
    """Return a row (`COLUMNS`) for each run, model and task of run folders and of tables.

    Raises:
        UserError: A source holds no scores.
    """
    rows = []
    for source in sources:
        found = _table_rows(source) if source.is_file() else _run_rows(source)
        if not found:
            raise UserError(f"{source}: holds no scores. Run `m3dt evaluate` on the run first.")
        rows += found
    return rows


def is_score_table(file: Path) -> bool:
    """Tell whether a CSV has the columns of such a table."""
    with file.open() as lines:
        return set(csv.DictReader(lines).fieldnames or ()) == set(COLUMNS)


def _table_rows(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    if not is_score_table(file):
        raise UserError(f"{file}: has not the columns {', '.join(COLUMNS)}")
    return rows


def _run_rows(run: Path) -> list[dict[str, str]]:
    rows = []
    for file in sorted((run / "evaluation").glob("*.json")):
        result = read_json(file, finite=True)["result"]
        for task, scores in result["tasks"].items():
            cost = f"{result['flops_per_action'] / 1e6:.3f}", f"{result['ms_per_action']:.3f}"
            values = (run.name, file.stem, task, f"{scores['score']:.2f}", *cost)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def compare(
    sources: Sequence[Path],
    models: Sequence[str],
    against: str,
    margin: float,
    table_file: Path | None,
    console: Console,
) -> None:
    """Print the paired differences of models to one of them; write all scores as a table.

    Args:
        sources: Folders of runs that differ in their seed, or tables written by this function.
        models: Names of models; by default all that every run has.
        against: The model that others are compared with.
        margin: How many points below count as no worse.
        table_file: Where the table goes, or None.
        console: Receives the comparison.

    Raises:
        UserError: Scores are missing.
    """
    if table_file is not None:
        check_output(table_file)
    rows = read_scores(sources)
    if table_file is not None:
        with atomic_path(table_file) as temporary, temporary.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    scores = _by_model(rows)
    if against not in scores:
        raise UserError(f"--against {against}: nobody evaluated it.{nearest(against, scores)}")
    cells = sorted(scores[against])
    complete = [name for name, own in scores.items() if set(own) >= set(cells)]
    chosen = list(models) or complete
    for name in chosen:
        if name not in complete:
            hint = nearest(name, complete)
            raise UserError(f"--models {name}: it lacks scores that {against} has.{hint}")
    console.print(_comparison(rows, scores, chosen, against, margin))


def _comparison(
    rows: Sequence[dict[str, str]],
    scores: Scores,
    models: Sequence[str],
    against: str,
    margin: float,
) -> Table:
    by_model, (runs, tasks) = _arrays(scores, (*models, against))
    table = Table(
        title=_title(len(runs), len(tasks), against),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in ("model", "mean", "IQM", "difference", "P(better)"):
        table.add_column(column, justify="left" if column == "model" else "right")
    table.add_column("verdict", max_width=14)
    table.add_column("MFLOP", justify="right")
    other = by_model[against]
    for name in models:
        own = by_model[name]
        scores_of = (measure(s, own) for s in (aggregates.mean, aggregates.interquartile_mean))
        compared = ["", "", ""]
        if name != against:
            difference = measure(aggregates.mean_difference, own, other)
            better = measure(aggregates.probability_of_improvement, own, other)
            said = aggregates.verdict(difference.interval, margin)
            compared = [difference.text("+.1f", "+.1f"), better.text(".0%", ".0%"), said]
        cost = np.mean([float(row["mflop"]) for row in rows if row["model"] == name])
        table.add_row(name, *(s.text(".1f", ".0f") for s in scores_of), *compared, f"{cost:,.1f}")
    return table


def _by_model(rows: Iterable[dict[str, str]]) -> Scores:
    scores: Scores = {}
    for row in rows:
        scores.setdefault(row["model"], {})[row["run"], row["task"]] = float(row["score"])
    return scores


def _arrays(
    scores: Scores, models: Iterable[str]
) -> tuple[dict[str, np.ndarray], tuple[list[str], list[str]]]:
    """Return each model's scores, (R, N), with the runs and tasks of the last, in their order."""
    *_, last = chosen = tuple(models)
    runs, tasks = (list(dict.fromkeys(key[axis] for key in scores[last])) for axis in (0, 1))
    arrays = {
        name: np.array([[scores[name][run, task] for task in tasks] for run in runs])
        for name in chosen
    }
    return arrays, (runs, tasks)


def result_texts(rows: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return what documents say of a table of scores, as Markdown.

    Returns:
        `scores`, a table of means over runs by task and model; and for each two models, such as
        `router - backbone`, their paired difference with its verdict. Models that lack a run or a
        task are left out.
    """
    scores = _by_model(rows)
    cells = set().union(*scores.values())
    complete = [name for name, own in scores.items() if set(own) == cells]
    if not complete:
        return {}
    arrays, (runs, tasks) = _arrays(scores, complete)
    texts = {"scores": _markdown(arrays, runs, tasks)}
    drawn = f"bootstrap over {len(runs)} runs and {len(tasks)} tasks"
    for name, other in itertools.permutations(complete, 2):
        found = measure(aggregates.mean_difference, arrays[name], arrays[other])
        said = aggregates.verdict(found.interval, margin=1)
        value = found.text("+.1f").replace("\n", " ")
        texts[f"{name} - {other}"] = f"**{said}**, {value} points ({drawn})"
    return texts


def _markdown(arrays: Mapping[str, np.ndarray], runs: Sequence[str], tasks: Sequence[str]) -> str:
    """Return the mean over runs of each task and model, and the mean over tasks."""
    by_task = [
        [task, *(f"{own[:, n].mean():.0f}" for own in arrays.values())]
        for n, task in enumerate(tasks)
    ]
    means = [
        measure(aggregates.mean, own).text(".1f").replace("\n", " ") for own in arrays.values()
    ]
    last = ["**mean over tasks**", *(f"**{mean}**" for mean in means)]
    header = [f"score, mean of {len(runs)} seeds", *arrays]
    return tables.markdown_table(header, [*by_task, last]).rstrip("\n")


def _title(runs: int, tasks: int, against: str) -> str:
    counted = f"{runs} run{'s' * (runs > 1)} x {tasks} task{'s' * (tasks > 1)}"
    drawn = [name for name, count in (("runs", runs), ("tasks", tasks)) if count > 1]
    intervals = f" [95 % bootstrap over {' and '.join(drawn)}]" if drawn else ""
    return f"{counted}, compared with {against}{intervals}"
