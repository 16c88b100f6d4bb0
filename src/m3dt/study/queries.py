"""Scores and conflict by seed that figures, tables and claims ask of the results.

Values of settings are read from the results; cells without a value of a setting have that of
`conf/lite.yaml`.
"""

from collections.abc import Collection
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from m3dt.config import Config, load_config
from m3dt.study.estimates import Ranged, Scores, percent_above
from m3dt.study.paper import BASELINES, M3DT, PROMPT_DT
from m3dt.study.study_results import ConflictRecord, Results
from m3dt.tasks import DOMAINS, get_task, suite

SUITES = {10: "mt10", 20: "mt20", 40: "mt40", 80: "mt80", 160: "mt160"}
FEW, MEDIUM, MANY = TASK_COUNTS = 10, 40, 160  # what needs one number of tasks has MEDIUM
CONTROL = ("metaworld", "dmcontrol")  # the paper states scores over both together
DOMAIN_TITLES = {"score": f"all {MEDIUM} tasks", **dict(zip(DOMAINS, DOMAINS, strict=True))}
"""Columns of scores and their titles."""

Similarity = Literal["to_mean", "spread", "leave_one_out", "pairwise", "independent"]
Agreement = Literal["conflict", "leave_one_out"]
Among = Literal["grouped", "all"]  # the tasks of each group, or all tasks


class Titled(NamedTuple):
    """Scores with the title of the model that has them."""

    title: str
    scores: Scores


class WidenedModel(NamedTuple):
    """Prompt-DT with one module widened, or none; `cell` names its cells, without the seed."""

    title: str
    scores: Scores
    cell: str


@cache
def base() -> Config:
    """Return the configuration that the study's cells deviate from."""
    return load_config("lite")


def m3dt_scores(
    results: Results, tasks: int = MEDIUM, column: str = "score", method: str = "m3dt-gradient"
) -> Scores:
    """Return the scores of M3DT in its default configuration."""
    return results.scores("m3dt", column, suite=SUITES[tasks], method=method)


def prompt_dt_scores(results: Results, tasks: int, width: int | None = None) -> Scores:
    """Return the scores of Prompt-DT, by default at M3DT's width."""
    if width not in (None, base().model.n_embd):
        return results.scores("size", suite=SUITES[tasks], n_embd=width)
    baselines, more_tasks = (
        results.scores(part, suite=SUITES[tasks], method=PROMPT_DT)
        for part in ("baselines", "tasks")
    )
    return Ranged({**baselines, **more_tasks})


def control_scores(results: Results, tasks: int, part: str, method: str) -> Scores:
    """Return the scores over the tasks of Meta-World and DMControl together."""
    found = {d: results.scores(part, d, suite=SUITES[tasks], method=method) for d in CONTROL}
    scores = {}
    for seed in sorted(set.intersection(*(set(by_seed) for by_seed in found.values()))):
        domains = [get_task(task).domain for task in suite(SUITES[tasks], seed)]
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
        evaluated = results.task_scores(part, suite=SUITES[trained], method=method)
        for seed, scores in evaluated.items():
            names = [t for t in suite(SUITES[listed], seed) if get_task(t).domain in domains]
            if names and scores.keys() >= set(names):
                found[seed] = sum(scores[name] for name in names) / len(names)
    return Ranged(dict(sorted(found.items())))


def all_scores(results: Results, tasks: int, part: str, method: str) -> np.ndarray:
    """Return a method's scores on all tasks of all seeds, (scores,)."""
    by_seed = results.task_scores(part, suite=SUITES[tasks], method=method)
    return np.array([score for scores in by_seed.values() for score in scores.values()])


def widths(results: Results, part: str = "size") -> list[int]:
    """Return the widths of a part's cells and the default width."""
    return sorted({*results.values(part, "n_embd"), base().model.n_embd})


def equal_sizes(results: Results) -> tuple[Titled, Titled]:
    """Return the narrowest M3DT, and the Prompt-DT with the nearest number of parameters."""

    def sizes(part: str, width: int) -> list[float]:
        return list(results.scores(part, "parameters", n_embd=width).values())

    narrow = min(widths(results, "width"))
    ours = sizes("width", narrow)
    candidates = {width: size[0] for width in widths(results) if (size := sizes("size", width))}
    if not ours or not candidates:
        return Titled(f"width {narrow}", {}), Titled("that size", {})
    width = min(candidates, key=lambda width: abs(candidates[width] - ours[0]))
    m3dt, prompt_dt = scores_by(results, "width")[narrow], prompt_dt_scores(results, MEDIUM, width)
    return (
        Titled(f"width {narrow}, {ours[0]:,.0f} parameters", m3dt),
        Titled(f"width {width}, {candidates[width]:,.0f} parameters", prompt_dt),
    )


def scores_by(
    results: Results, part: Literal["experts", "width", "backbone"], column: str = "score"
) -> dict[int, Scores]:
    """Return M3DT's scores by number of experts, width, or training steps of its backbone."""
    setting, default = {
        "experts": ("num_experts", base().moe.num_experts),
        "width": ("n_embd", base().model.n_embd),
        "backbone": ("max_steps", base().stage1.max_steps),
    }[part]
    found: dict[int, Scores] = {
        value: results.scores(part, column, **{setting: value})
        for value in results.values(part, setting)
    }
    return dict(sorted({**found, default: m3dt_scores(results, column=column)}.items()))


def scores_by_shape(results: Results) -> dict[str, Scores]:
    """Return M3DT's scores by experts x width, at about equal parameters in experts."""
    found = {f"{base().moe.num_experts} x {base().model.n_embd}": m3dt_scores(results)}
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


def scores_by_top_k(results: Results) -> dict[int, Scores]:
    """Return the scores of M3DT with top-k routers by k."""
    return {k: results.scores("top-k", top_k=k) for k in results.values("top-k", "top_k")}


def num_parameters(results: Results, part: str, tasks: int = MEDIUM, **values: object) -> str:
    """Return the number of parameters of some cells as text, empty without such cells."""
    found = results.scores(part, "parameters", suite=SUITES[tasks], **values)
    return f"{next(iter(found.values())):,.0f}" if found else ""


def ablation_scores(results: Results, method: str) -> Scores:
    """Return the scores of M3DT or a variant of it."""
    part = "m3dt" if method in M3DT else "ablations"
    return results.scores(part, suite=SUITES[MEDIUM], method=method)


def residual_scores(results: Results, column: str = "score") -> tuple[Scores, Scores]:
    """Return M3DT's scores with experts added to h, and with experts added to LN(h)."""
    official = results.scores("residual", column, residual="official")
    return m3dt_scores(results, column=column), official


def timestep_scores(results: Results, column: str = "score") -> tuple[Scores, Scores]:
    """Return Prompt-DT's scores with small initial timestep embeddings, and with N(0, 1)."""
    small = results.scores("baselines", column, suite=SUITES[MEDIUM], method=PROMPT_DT)
    return small, results.scores("timestep", column)


def best_baseline(results: Results, tasks: int, column: str = "score") -> Titled:
    """Return the best baseline of M3DT's width; one with more seeds precedes one with fewer."""
    found = (
        Titled(title, results.scores("baselines", column, suite=SUITES[tasks], method=method))
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


def final_similarity(results: Results, tasks: int, measure: Similarity) -> Scores:
    """Return a gradient similarity at the end of Prompt-DT's training."""
    histories = results.conflict(f"{SUITES[tasks]}_{PROMPT_DT}", "baseline")
    return {
        seed: 1 - records[-1]["mean"] if measure == "to_mean" else records[-1][measure]
        for seed, records in histories.items()
    }


def backbone_histories(results: Results) -> dict[int, list[ConflictRecord]]:
    """Return the conflict during the longest training of a backbone that has the most seeds."""
    default = base().stage1.max_steps
    found = []
    for steps in sorted({*results.values("backbone", "max_steps"), default}, reverse=True):
        suffix = "" if steps == default else f"_max_steps{steps}"
        found.append(results.conflict(f"{SUITES[MEDIUM]}_m3dt-gradient{suffix}", "backbone"))
    return max(found, key=len)  # of equals the first, which is the longest


def expert_agreement(results: Results, method: str, among: Among, measure: Agreement) -> Scores:
    """Return the agreement of gradients, or their conflict, inside a method's trained experts."""
    kind = "router" if method == "m3dt-ungrouped" else "expert"
    histories = results.expert_conflict(f"{SUITES[MEDIUM]}_{method}", kind)
    return {seed: r[-1][among][measure] for seed, r in histories.items() if among in r[-1]}


def widened_models(results: Results) -> dict[str, WidenedModel]:
    """Return Prompt-DT in its default shape (`none`), with wider attention, and wider MLPs."""
    cell, width = f"{SUITES[MEDIUM]}_{PROMPT_DT}", base().model.n_embd
    found = {"none": WidenedModel("as it is", prompt_dt_scores(results, MEDIUM), cell)}
    for module, name, default in (("attention", "attention", width), ("mlp", "MLP", 4 * width)):
        values = results.values(module, f"{module}_width")
        title = f"{name} x {values[0] / default:g}" if values else f"{name} wider"
        widened = f"{cell}_{module}_width{values[0]}" if values else ""
        found[module] = WidenedModel(title, results.scores(module), widened)
    return found


def module_conflict(results: Results, cell: str, module: str) -> Scores:
    """Return the conflict in a module's parameters at the end of training."""
    histories = results.conflict(cell, "baseline")
    return {s: r[-1]["parts"][module] for s, r in histories.items() if module in r[-1]["parts"]}
