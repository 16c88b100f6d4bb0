"""Scores by seed that figures, tables and claims ask of the results.

Values of settings are read from the results; cells without a value of a setting have that of the
study's base configuration. Where no number of tasks is given, it is the study's medium one.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from m3dt.config import StageConfig
from m3dt.study.cell_results import RETURN
from m3dt.study.estimates import Ranged, Scores, percent_above
from m3dt.study.paper import BASELINES, M3DT, PROMPT_DT
from m3dt.study.study_results import Results
from m3dt.tasks import DOMAINS, get_task, suite

CONTROL = ("metaworld", "dmcontrol")  # the paper states scores over both together


class Titled(NamedTuple):
    """Scores with the title of the model that has them."""

    title: str
    scores: Scores


def suite_name(results: Results, tasks: int | None = None) -> str:
    """Return the name of a suite, by default that of the medium number of tasks."""
    return f"mt{tasks or results.medium}"


def domains(results: Results) -> list[str]:
    """Return the domains with scores: the paper's, or as the columns of achieved returns name."""
    named = [
        key.removesuffix(RETURN) for row in results.rows[:1] for key in row if key.endswith(RETURN)
    ]
    every = dict.fromkeys((*DOMAINS, *named))
    scored = [d for d in every if any(row.get(d) not in (None, "", "nan") for row in results.rows)]
    return scored or list(DOMAINS)


def domain_titles(results: Results) -> dict[str, str]:
    """Return columns of scores and their titles."""
    return {"score": f"all {results.medium} tasks", **{d: d for d in domains(results)}}


def m3dt_scores(
    results: Results,
    tasks: int | None = None,
    column: str = "score",
    method: str = "m3dt-gradient",
) -> Scores:
    """Return the scores of M3DT in its default configuration."""
    return results.scores("m3dt", column, suite=suite_name(results, tasks), method=method)


def routed_by_prompt(results: Results, method: str = "m3dt-gradient") -> Scores:
    """Return the scores of M3DT with a router by the prompt, the part `prompt` of a study."""
    return results.scores("prompt", suite=suite_name(results), method=method)


def prompt_dt_scores(
    results: Results, tasks: int | None = None, width: int | None = None
) -> Scores:
    """Return the scores of Prompt-DT, by default at M3DT's width."""
    name = suite_name(results, tasks)
    if width not in (None, results.base.model.n_embd):
        return results.scores("size", suite=name, n_embd=width)
    baselines, more_tasks = (
        results.scores(part, suite=name, method=PROMPT_DT) for part in ("baselines", "tasks")
    )
    return Ranged({**baselines, **more_tasks})


def control_scores(results: Results, tasks: int, part: str, method: str) -> Scores:
    """Return the scores over the tasks of Meta-World and DMControl together."""
    name = suite_name(results, tasks)
    found = {d: results.scores(part, d, suite=name, method=method) for d in CONTROL}
    scores = {}
    played = results.task_scores(part, suite=name, method=method)
    for seed in sorted(set.intersection(*(set(by_seed) for by_seed in found.values()))):
        listed = list(played.get(seed) or suite(name, seed))
        domains = [get_task(task).domain for task in listed]
        counts = {domain: domains.count(domain) for domain in CONTROL}
        total = sum(counts[domain] * found[domain][seed] for domain in CONTROL)
        scores[seed] = total / sum(counts.values())
    return Ranged(scores)


def scores_on_list(
    results: Results, listed: int, trained: int, method: str, domains: Collection[str] = DOMAINS
) -> Scores:
    """Return scores over the list of `listed` tasks, of models trained on `trained` tasks.

    Task lists differ in domains and difficulty, so the effect of more training tasks shows only on
    the same list. A model that was not evaluated on the whole list has no score.
    """
    found = {}
    for part in ("m3dt",) if method in M3DT else ("tasks", "baselines"):
        evaluated = results.task_scores(part, suite=suite_name(results, trained), method=method)
        for seed, scores in evaluated.items():
            tasks = suite(suite_name(results, listed), seed)
            names = [t for t in tasks if get_task(t).domain in domains]
            if names and scores.keys() >= set(names):
                found[seed] = sum(scores[name] for name in names) / len(names)
    return Ranged(dict(sorted(found.items())))


def all_scores(results: Results, tasks: int, part: str, method: str) -> np.ndarray:
    """Return a method's scores on all tasks of all seeds, (scores,)."""
    by_seed = results.task_scores(part, suite=suite_name(results, tasks), method=method)
    return np.array([score for scores in by_seed.values() for score in scores.values()])


def widths(results: Results, part: str = "size") -> list[int]:
    """Return the widths of a part's cells and the default width."""
    return sorted({*results.values(part, "n_embd"), results.base.model.n_embd})


def num_parameters(results: Results, part: str, tasks: int | None = None, **values: object) -> str:
    """Return the number of parameters of some cells as text, empty without such cells."""
    found = results.scores(part, "parameters", suite=suite_name(results, tasks), **values)
    return f"{next(iter(found.values())):,.0f}" if found else ""


def ablation_scores(results: Results, method: str) -> Scores:
    """Return the scores of M3DT or a variant of it."""
    part = "m3dt" if method in M3DT else "ablations"
    return results.scores(part, suite=suite_name(results), method=method)


def baseline_scores(results: Results, tasks: int, method: str, column: str = "score") -> Scores:
    """Return the scores of a baseline of M3DT's width."""
    return results.scores("baselines", column, suite=suite_name(results, tasks), method=method)


def best_baseline(results: Results, tasks: int, column: str = "score") -> Titled:
    """Return the best baseline of M3DT's width; one with more seeds precedes one with fewer."""
    found = (
        Titled(title, baseline_scores(results, tasks, method, column))
        for method, title in BASELINES.items()
    )
    return max(
        (baseline for baseline in found if baseline.scores),
        key=lambda b: (len(b.scores), sum(b.scores.values()) / len(b.scores)),
        default=Titled("the baselines", {}),
    )


def gain(results: Results, tasks: int, method: str) -> Scores:
    """Return M3DT's gain over the best baseline by seed, in percent of the baseline's score."""
    ours = m3dt_scores(results, tasks, method=method)
    return percent_above(ours, best_baseline(results, tasks).scores)


def share_of_segments(results: Results) -> float:
    """Return the segments of a baseline's training over those of M3DT's backbone and experts."""
    config = results.base
    own = config.loader.batch_size

    def segments(stage: StageConfig) -> int:
        return stage.max_steps * (stage.batch_size or own)

    experts = config.moe.num_experts * segments(config.stage2)
    return segments(config.baseline) / (segments(config.stage1) + experts)
