"""Which cells of the study hold what a figure or a claim asks for; everything is by seed.

What varies is read from the results; where it does not, a cell is as `conf/lite.yaml` has it.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection
from functools import cache
from typing import NamedTuple

from m3dt.config import Config, load_config
from m3dt.study.estimates import Record, Results, Scores
from m3dt.tasks import DOMAINS, get_task, suite

SUITES = {10: "mt10", 20: "mt20", 40: "mt40", 80: "mt80", 160: "mt160"}
MAIN = 40  # tasks of all comparisons but those of their number
CONTROL = ("metaworld", "dmcontrol")  # the paper states scores over both together


@cache
def base() -> Config:
    """Return the configuration that the study's cells deviate from."""
    return load_config("lite")


def m3dt(
    results: Results, tasks: int = MAIN, column: str = "score", method: str = "m3dt-gradient"
) -> Scores:
    """Return scores of M3DT as it is."""
    return results.scores("m3dt", column, suite=SUITES[tasks], method=method)


def prompt_dt(results: Results, tasks: int, width: int | None = None) -> Scores:
    """Return scores of Prompt-DT with the whole budget, at M3DT's width unless another is named."""
    if width not in (None, base().model.n_embd):
        return results.scores("size", suite=SUITES[tasks], n_embd=width)
    parts = (
        results.scores(part, suite=SUITES[tasks], method="promptdt")
        for part in ("tasks", "baselines")
    )
    return dict(ChainMap(*parts))


def control(results: Results, tasks: int, part: str, method: str) -> Scores:
    """Return scores over the tasks of Meta-World and DMControl together."""
    found = {
        domain: results.scores(part, domain, suite=SUITES[tasks], method=method)
        for domain in CONTROL
    }
    scores = {}
    for seed in sorted(set.intersection(*(set(by_seed) for by_seed in found.values()))):
        domains = [get_task(task).domain for task in suite(SUITES[tasks], seed)]
        counts = {domain: domains.count(domain) for domain in CONTROL}
        total = sum(counts[domain] * found[domain][seed] for domain in CONTROL)
        scores[seed] = total / sum(counts.values())
    return scores


def on_list(
    results: Results,
    listed: int,
    learned: int,
    method: str,
    domains: Collection[str] = DOMAINS,
) -> Scores:
    """Return scores over the list of `listed` tasks, of models that learned `learned` of them.

    Lists differ in their tasks, domains and difficulty: what more tasks do to a model is seen on
    the same ones. Where the model has not played all of them, there is no score.
    """
    parts = ("m3dt",) if method.startswith("m3dt") else ("tasks", "baselines")
    found = {}
    for part in parts:
        played = results.task_scores(part, suite=SUITES[learned], method=method)
        for seed, scores in played.items():
            names = [t for t in suite(SUITES[listed], seed) if get_task(t).domain in domains]
            if names and scores.keys() >= set(names):
                found[seed] = sum(scores[name] for name in names) / len(names)
    return dict(sorted(found.items()))


def widths(results: Results, part: str = "size") -> list[int]:
    """Return the widths that a part has, and that of all others."""
    return sorted({*results.values(part, "n_embd"), base().model.n_embd})


class Sized(NamedTuple):
    """Scores of a model of some size."""

    title: str
    scores: Scores


def equal_sizes(results: Results) -> tuple[Sized, Sized]:
    """Return the narrowest M3DT, and the Prompt-DT whose number of parameters is nearest to its."""
    narrow = min(widths(results, "width"))
    ours = results.scores("width", "parameters", n_embd=narrow)
    size = next(iter(ours.values()), 0.0)

    def distance(width: int) -> float:
        found = results.scores("size", "parameters", n_embd=width)
        return abs(next(iter(found.values()), float("inf")) - size)

    width = min(widths(results), key=distance)
    theirs = results.scores("size", "parameters", n_embd=width)
    if not theirs or not ours:
        return Sized(f"width {narrow}", {}), Sized("that size", {})
    return (
        Sized(f"width {narrow}, {size:,.0f} parameters", by_width(results)[narrow]),
        Sized(
            f"width {width}, {next(iter(theirs.values())):,.0f} parameters",
            prompt_dt(results, MAIN, width),
        ),
    )


def by_experts(results: Results, column: str = "score") -> dict[int, Scores]:
    """Return scores of M3DT by its number of experts."""
    found: dict[int, Scores] = {
        count: results.scores("experts", column, num_experts=count)
        for count in results.values("experts", "num_experts")
    }
    return dict(sorted({**found, base().moe.num_experts: m3dt(results, column=column)}.items()))


def by_width(results: Results, column: str = "score") -> dict[int, Scores]:
    """Return scores of M3DT by its width."""
    own = base().model.n_embd
    return {
        width: m3dt(results, column=column)
        if width == own
        else results.scores("width", column, n_embd=width)
        for width in widths(results, "width")
    }


def by_backbone_steps(results: Results, column: str = "score") -> dict[int, Scores]:
    """Return scores of M3DT by the steps of its backbone."""
    found: dict[int, Scores] = {
        steps: results.scores("backbone", column, max_steps=steps)
        for steps in results.values("backbone", "max_steps")
    }
    return dict(sorted({**found, base().stage1.max_steps: m3dt(results, column=column)}.items()))


def shapes(results: Results) -> dict[str, Scores]:
    """Return scores of M3DT by experts x width; experts alone have about as many parameters."""
    found = {f"{base().moe.num_experts} x {base().model.n_embd}": m3dt(results)}
    many, few = (
        {
            f"{experts} x {width}": results.scores(part)
            for experts in results.values(part, "num_experts")
            for width in results.values(part, "n_embd")
        }
        or {part: {}}
        for part in ("narrow", "wide")
    )
    return {**many, **found, **few}


def by_top_k(results: Results) -> dict[int, Scores]:
    """Return scores of routers that choose k experts."""
    return {k: results.scores("top-k", top_k=k) for k in results.values("top-k", "top_k")}


def parameters(results: Results, part: str, tasks: int = MAIN, **values: object) -> str:
    """Return how many parameters cells have, or nothing if there are none."""
    found = results.scores(part, "parameters", suite=SUITES[tasks], **values)
    return f"{next(iter(found.values())):,.0f}" if found else ""


def final_similarity(results: Results, tasks: int, key: str) -> Scores:
    """Return a similarity at the end of Prompt-DT's training."""
    ends = results.histories(f"{SUITES[tasks]}_promptdt", "baseline/conflict")
    return {
        seed: 1 - records[-1]["mean"] if key == "to_mean" else records[-1][key]
        for seed, records in ends.items()
    }


def backbone_histories(results: Results) -> dict[int, list[Record]]:
    """Return conflict over the longest training of a backbone that has the most seeds."""
    own = base().stage1.max_steps
    found = []
    for steps in sorted({*results.values("backbone", "max_steps"), own}, reverse=True):
        ending = "" if steps == own else f"_max_steps{steps}"
        cell = f"{SUITES[MAIN]}_m3dt-gradient{ending}"
        found.append(results.histories(cell, "backbone/conflict"))
    return max(found, key=len)  # the first of them, the longest


def expert_conflict(results: Results, method: str, name: str, key: str) -> Scores:
    """Return a measure of the trained experts' conflict."""
    kind = "router" if method == "m3dt-ungrouped" else "expert"
    ends = results.histories(f"{SUITES[MAIN]}_{method}", f"{kind}/expert_conflict")
    return {seed: r[-1][name][key] for seed, r in ends.items() if name in r[-1]}
