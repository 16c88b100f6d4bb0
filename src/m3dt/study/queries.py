"""Scores by seed that figures, tables and claims ask of the results.

Values of settings are read from the results; cells without a value of a setting have that of the
study's base configuration. Where no number of tasks is given, it is the study's medium one.
"""

from collections.abc import Collection
from typing import Literal, NamedTuple

import numpy as np

from m3dt.study.estimates import Ranged, Scores, percent_above
from m3dt.study.paper import BASELINES, M3DT, PROMPT_DT
from m3dt.study.study_results import Results
from m3dt.tasks import DOMAINS, get_task, suite

CONTROL = ("metaworld", "dmcontrol")  # the paper states scores over both together
SHAPE = ("n_layer", "n_head", "n_embd")  # of Prompt-DT, as figure 10 varies it
_SETTINGS = {"experts": "moe.num_experts", "width": "model.n_embd", "backbone": "stage1.max_steps"}


class Titled(NamedTuple):
    """Scores with the title of the model that has them."""

    title: str
    scores: Scores


def suite_name(results: Results, tasks: int | None = None) -> str:
    """Return the name of a suite, by default that of the medium number of tasks."""
    return f"mt{tasks or results.medium}"


def domain_titles(results: Results) -> dict[str, str]:
    """Return columns of scores and their titles."""
    return {"score": f"all {results.medium} tasks", **dict(zip(DOMAINS, DOMAINS, strict=True))}


def m3dt_scores(
    results: Results,
    tasks: int | None = None,
    column: str = "score",
    method: str = "m3dt-gradient",
) -> Scores:
    """Return the scores of M3DT in its default configuration."""
    return results.scores("m3dt", column, suite=suite_name(results, tasks), method=method)


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
    for seed in sorted(set.intersection(*(set(by_seed) for by_seed in found.values()))):
        domains = [get_task(task).domain for task in suite(name, seed)]
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


def equal_sizes(results: Results) -> tuple[Titled, Titled]:
    """Return the narrowest M3DT, and the Prompt-DT with the nearest number of parameters."""

    def sizes(part: str, width: int) -> list[float]:
        found = results.scores(part, "parameters", suite=suite_name(results), n_embd=width)
        return list(found.values())

    narrow = min(widths(results, "width"))
    ours = sizes("width", narrow)
    candidates = {width: size[0] for width in widths(results) if (size := sizes("size", width))}
    if not ours or not candidates:
        return Titled(f"width {narrow}", {}), Titled("that size", {})
    width = min(candidates, key=lambda width: abs(candidates[width] - ours[0]))
    m3dt = scores_by(results, "width")[narrow]
    return (
        Titled(f"width {narrow}, {ours[0]:,.0f} parameters", m3dt),
        Titled(
            f"width {width}, {candidates[width]:,.0f} parameters",
            prompt_dt_scores(results, width=width),
        ),
    )


def scores_by(
    results: Results,
    part: Literal["experts", "width", "backbone"],
    column: str = "score",
    tasks: int | None = None,
) -> dict[int, Scores]:
    """Return M3DT's scores by number of experts, width, or training steps of its backbone."""
    base, name, setting = results.base, suite_name(results, tasks), _SETTINGS[part]
    default = {
        "experts": base.moe.num_experts,
        "width": base.model.n_embd,
        "backbone": base.stage1.max_steps,
    }[part]
    found: dict[int, Scores] = {
        value: results.scores(part, column, suite=name, **{setting: value})
        for value in results.values(part, setting, suite=name)
    }
    return dict(sorted({**found, default: m3dt_scores(results, tasks, column)}.items()))


def scores_by_expert_shape(results: Results) -> dict[str, Scores]:
    """Return M3DT's scores by experts x width, at about equal parameters in experts."""
    base, name = results.base, suite_name(results)
    found = {f"{base.moe.num_experts} x {base.model.n_embd}": m3dt_scores(results)}
    many, few = (
        {
            f"{experts} x {width}": results.scores(part, suite=name)
            for experts in results.values(part, "num_experts")
            for width in results.values(part, "n_embd")
        }
        or {part: {}}
        for part in ("narrow", "wide")
    )
    return {**many, **found, **few}


def scores_by_shape(results: Results) -> dict[str, Scores]:
    """Return Prompt-DT's scores by layers x heads x width; the study's own shape comes first.

    Other shapes are the part `shape` of a study, empty without it.
    """
    own = [str(getattr(results.base.model, setting)) for setting in SHAPE]
    found = {" x ".join(own): prompt_dt_scores(results)}
    shapes = {
        tuple(row.get(f"model.{k}") or default for k, default in zip(SHAPE, own, strict=True))
        for row in results.rows
        if row["part"] == "shape"
    }
    for shape in sorted(shapes, key=lambda shape: tuple(map(int, shape))):
        values = dict(zip(SHAPE, shape, strict=True))
        scores = results.scores("shape", suite=suite_name(results), **values)
        found.setdefault(" x ".join(shape), scores)
    return found


def scores_by_top_k(results: Results, experts: int | None = None) -> dict[int, Scores]:
    """Return the scores of M3DT with top-k routers by k, by default of the usual experts."""
    name, count = suite_name(results), experts or results.base.moe.num_experts
    return {
        k: results.scores("top-k", suite=name, num_experts=count, top_k=k)
        for k in results.values("top-k", "top_k", suite=name, num_experts=count)
    }


def num_parameters(results: Results, part: str, tasks: int | None = None, **values: object) -> str:
    """Return the number of parameters of some cells as text, empty without such cells."""
    found = results.scores(part, "parameters", suite=suite_name(results, tasks), **values)
    return f"{next(iter(found.values())):,.0f}" if found else ""


def ablation_scores(results: Results, method: str) -> Scores:
    """Return the scores of M3DT or a variant of it."""
    part = "m3dt" if method in M3DT else "ablations"
    return results.scores(part, suite=suite_name(results), method=method)


def residual_scores(results: Results, column: str = "score") -> tuple[Scores, Scores]:
    """Return M3DT's scores with experts added to h, and with experts added to LN(h)."""
    official = results.scores("residual", column, suite=suite_name(results), residual="official")
    return m3dt_scores(results, column=column), official


def timestep_scores(results: Results, column: str = "score") -> tuple[Scores, Scores]:
    """Return Prompt-DT's scores with small initial timestep embeddings, and with N(0, 1)."""
    small = baseline_scores(results, results.medium, PROMPT_DT, column)
    return small, results.scores("timestep", column, suite=suite_name(results))


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


def scores_over_training(results: Results) -> dict[int, Scores]:
    """Return Prompt-DT's scores by its training steps, the part `training` of a study."""
    given = {"suite": suite_name(results), "method": PROMPT_DT}
    steps = results.values("training", "baseline.max_steps", **given)
    return {
        step: results.scores("training", "score", **given, **{"baseline.max_steps": step})
        for step in steps
    }


def scores_by_target(results: Results, method: str, column: str = "score") -> dict[float, Scores]:
    """Return a method's scores by the share of the target return that it is asked for.

    Other shares than 1 are the part `returns` of a study; without it, there is nothing.
    """
    given = {"suite": suite_name(results), "method": method}
    asked = results.numbers("returns", "target_scale", **given)
    found = {float(x): results.scores("returns", column, target_scale=x, **given) for x in asked}
    if found:
        part = "m3dt" if method in M3DT else "baselines"
        found.setdefault(1.0, results.scores(part, column, **given))
    return dict(sorted((x, scores) for x, scores in found.items() if scores))
