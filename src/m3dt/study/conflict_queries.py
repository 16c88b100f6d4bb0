"""Measures of gradient conflict by seed that figures and claims ask of the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from m3dt.study.estimates import Scores
from m3dt.study.method_names import PROMPT_DT
from m3dt.study.queries import MEDIUM, SUITES, base, prompt_dt_scores
from m3dt.study.study_results import ConflictRecord, Results

Similarity = Literal["to_mean", "spread", "leave_one_out", "pairwise", "independent"]
Agreement = Literal["conflict", "leave_one_out"]
Among = Literal["grouped", "all"]  # the tasks of each group, or all tasks


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
    """Return the agreement of gradients inside a method's trained experts.

    Args:
        results: The study's results.
        method: `m3dt-ungrouped`, or a method with groups.
        among: The tasks of each group, or all tasks.
        measure: The conflict, or the cosine to the mean of the other tasks.
    """
    kind = "router" if method == "m3dt-ungrouped" else "expert"
    histories = results.expert_conflict(f"{SUITES[MEDIUM]}_{method}", kind)
    return {seed: r[-1][among][measure] for seed, r in histories.items() if among in r[-1]}


@dataclass(frozen=True)
class WidenedModel:
    """Prompt-DT with one module widened, or none.

    Attributes:
        title: The module and its factor.
        scores: On `MEDIUM` tasks.
        cell: Name of its cells, without the seed; empty without results.
    """

    title: str
    scores: Scores
    cell: str


def widened_models(results: Results) -> dict[str, WidenedModel]:
    """Return Prompt-DT in its default shape (`none`), with wider attention, and wider MLPs."""
    cell = f"{SUITES[MEDIUM]}_{PROMPT_DT}"
    found = {"none": WidenedModel("as it is", prompt_dt_scores(results, MEDIUM), cell)}
    for module, width in (("attention", base().model.n_embd), ("mlp", 4 * base().model.n_embd)):
        name = "attention" if module == "attention" else "MLP"
        values = results.values(module, f"{module}_width")
        title = f"{name} x {values[0] / width:g}" if values else f"{name} wider"
        widened = f"{cell}_{module}_width{values[0]}" if values else ""
        found[module] = WidenedModel(title, results.scores(module), widened)
    return found


def module_conflict(results: Results, cell: str, module: str) -> Scores:
    """Return the conflict in a module's parameters at the end of training."""
    histories = results.conflict(cell, "baseline")
    return {s: r[-1]["parts"][module] for s, r in histories.items() if module in r[-1]["parts"]}
