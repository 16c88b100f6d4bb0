"""Agreement of the tasks' gradients that figures and claims ask of the results."""

from typing import Literal, NamedTuple

from m3dt.study.estimates import Scores
from m3dt.study.paper import PROMPT_DT
from m3dt.study.queries import prompt_dt_scores, suite_name
from m3dt.study.study_results import ConflictRecord, Results

Similarity = Literal["to_mean", "spread", "leave_one_out", "pairwise", "independent"]
Agreement = Literal["conflict", "leave_one_out"]
Among = Literal["grouped", "all"]  # the tasks of each group, or all tasks
# The kind of the models in which experts train, for methods without stage 2.
_KINDS = {"m3dt-ungrouped": "router", "m3dt-end-to-end": "baseline"}


class WidenedModel(NamedTuple):
    """Prompt-DT with one module widened, or none; `cell` names its cells, without the seed."""

    title: str
    scores: Scores
    cell: str


def final_similarity(results: Results, tasks: int, measure: Similarity) -> Scores:
    """Return a gradient similarity at the end of Prompt-DT's training."""
    histories = results.conflict(f"{suite_name(results, tasks)}_{PROMPT_DT}", "baseline")
    return {
        seed: 1 - records[-1]["mean"] if measure == "to_mean" else records[-1][measure]
        for seed, records in histories.items()
    }


def backbone_histories(results: Results) -> dict[int, list[ConflictRecord]]:
    """Return the conflict during the longest training of a backbone that has the most seeds."""
    default, name = results.base.stage1.max_steps, suite_name(results)
    found = []
    for steps in sorted({*results.values("backbone", "stage1.max_steps"), default}, reverse=True):
        suffix = "" if steps == default else f"_max_steps{steps}"
        found.append(results.conflict(f"{name}_m3dt-gradient{suffix}", "backbone"))
    return max(found, key=len)  # of equals the first, which is the longest


def expert_agreement(results: Results, method: str, among: Among, measure: Agreement) -> Scores:
    """Return the agreement of gradients, or their conflict, inside a method's trained experts."""
    kind = _KINDS.get(method, "expert")
    histories = results.expert_conflict(f"{suite_name(results)}_{method}", kind)
    return {seed: r[-1][among][measure] for seed, r in histories.items() if among in r[-1]}


def widened_models(results: Results) -> dict[str, WidenedModel]:
    """Return Prompt-DT in its default shape (`none`), with wider attention, and wider MLPs."""
    name, width = suite_name(results), results.base.model.n_embd
    cell = f"{name}_{PROMPT_DT}"
    found = {"none": WidenedModel("as it is", prompt_dt_scores(results), cell)}
    for module, title, default in (("attention", "attention", width), ("mlp", "MLP", 4 * width)):
        values = results.values(module, f"{module}_width")
        title = f"{title} x {values[0] / default:g}" if values else f"{title} wider"
        widened = f"{cell}_{module}_width{values[0]}" if values else ""
        found[module] = WidenedModel(title, results.scores(module, suite=name), widened)
    return found


def module_conflict(results: Results, cell: str, module: str) -> Scores:
    """Return the conflict in a module's parameters at the end of training."""
    histories = results.conflict(cell, "baseline")
    return {s: r[-1]["parts"][module] for s, r in histories.items() if module in r[-1]["parts"]}
