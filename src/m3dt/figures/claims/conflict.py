"""Claims on how far the tasks' gradients agree: figures 2, 5, 7, 12."""

from __future__ import annotations

from m3dt.figures.cells import backbone_histories, expert_conflict, final_similarity
from m3dt.figures.claims.claim import MISSING, NO_NUMBER, OURS, Claim, compare, say, verdict
from m3dt.figures.modules import module_conflict, variants
from m3dt.figures.results import Results, Scores, difference, estimate

_FEW, _MANY = 10, 160


def conflict_claims(results: Results) -> list[Claim]:
    """Return the claims on conflict between tasks."""
    return [
        *_over_tasks(results),
        *_over_training(results),
        _in_experts(results),
        *_in_modules(results),
    ]


def _hundredths(scores: Scores) -> Scores:
    return {seed: 100 * value for seed, value in scores.items()}


def _over_tasks(results: Results) -> list[Claim]:
    def at(tasks: int, key: str) -> tuple[str, Scores]:
        scores = _hundredths(final_similarity(results, tasks, key))
        return f"hundredths at {tasks} tasks" if tasks == _FEW else f"at {tasks}", scores

    whole = compare(
        "similarity",
        "The more tasks, the less their gradients agree with the mean",
        "falls, no number stated",
        at(_FEW, "to_mean"),
        at(_MANY, "to_mean"),
    )
    free = 100 / _FEW**0.5 - 100 / _MANY**0.5
    told = f"{whole.ours}; 1/sqrt(N) alone falls by {free:.1f}"
    rest = compare("similarity remains", "They agree less by the leave-one-out cosine too", OURS,
                   at(_FEW, "leave_one_out"), at(_MANY, "leave_one_out"))  # fmt: skip
    pairs = difference(at(_FEW, "pairwise")[1], at(_MANY, "pairwise")[1])
    by_pairs = f"; between pairs the difference is {pairs}" if pairs else ""
    return [
        Claim(whole.name, whole.text, whole.paper, told, whole.verdict),
        Claim(rest.name, rest.text, rest.paper, rest.ours + by_pairs, rest.verdict),
    ]


def _over_training(results: Results) -> list[Claim]:
    histories = backbone_histories(results)

    def rise(key: str, part: str = "whole") -> Scores:
        rises = {}
        for seed, records in histories.items():
            third = len(records) // 3
            first, last = {"whole": (0, -1), "first": (0, third), "last": (-third - 1, -1)}[part]
            rises[seed] = 100 * (records[last][key] - records[first][key])
        return rises

    conflict, early, late = rise("smoothed"), rise("smoothed", "first"), rise("smoothed", "last")
    others = {seed: -value for seed, value in rise("leave_one_out").items()}
    return [
        Claim("conflict", "Conflict rises over training", NO_NUMBER,
              f"By {say(conflict)} hundredths" if conflict else "",
              verdict(estimate(conflict.values()))),
        compare("levels", "Its rise slows down towards a peak", "peak at about 400k steps",
                ("hundredths in the first third", early), ("in the last", late)),
        Claim("artefact", "Agreement falls by the leave-one-out cosine too, which has no "
              "floor of 1/sqrt(N)", OURS, f"By {say(others)} hundredths" if others else "",
              verdict(estimate(others.values()))),
    ]  # fmt: skip


def _in_experts(results: Results) -> Claim:
    grouped, together = (
        _hundredths(expert_conflict(results, "m3dt-gradient", name, "leave_one_out"))
        for name in ("grouped", "all")
    )
    text = "Tasks of a group agree better inside their expert than all tasks do"
    titles = "leave-one-out cosine in hundredths within groups", "between all tasks"
    return compare("group conflict", text, NO_NUMBER, (titles[0], grouped), (titles[1], together))


def _in_modules(results: Results) -> list[Claim]:
    found = variants(results)
    mlp, attention, plain = found["mlp"], found["attention"], found["none"]
    wider = compare("modules", "Widening the MLP alone helps more than widening attention alone",
                    OURS, (mlp.title, mlp.scores), (attention.title, attention.scores))  # fmt: skip
    told = f"{wider.ours}; as it is: {say(plain.scores)}"
    inside = {
        module: _hundredths(module_conflict(results, plain.cell, module))
        for module in ("mlp", "attention")
    }
    text = "Tasks conflict more in the MLPs than in attention"
    known = wider.verdict != MISSING
    return [
        Claim(wider.name, wider.text, OURS, told if known else wider.ours, wider.verdict),
        compare("module conflict", text, OURS, ("hundredths in MLPs", inside["mlp"]),
                ("in attention", inside["attention"])),
    ]  # fmt: skip
