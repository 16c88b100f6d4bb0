"""Claims on how far the tasks' gradients agree: figures 2, 5, 7, 12."""

from __future__ import annotations

from collections.abc import Mapping

from m3dt.study.claims.claim import MISSING, NO_NUMBER, OURS, Claim, compare, say, verdict
from m3dt.study.estimates import Record, Results, Scores, difference, estimate
from m3dt.study.figures.modules import module_conflict, variants
from m3dt.study.lookup import backbone_histories, expert_conflict, final_similarity

_FEW, _MANY = 10, 160


def conflict_claims(results: Results) -> list[Claim]:
    """Return the claims on conflict between tasks."""
    return [
        *_over_tasks(results),
        *_over_training(results),
        *_in_experts(results),
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
    rest = compare("similarity remains", "Pairs of tasks agree less too, which no number of tasks "
                   "biases", OURS, at(_FEW, "pairwise"), at(_MANY, "pairwise"))  # fmt: skip
    others = difference(at(_FEW, "leave_one_out")[1], at(_MANY, "leave_one_out")[1])
    by_others = f"; to the mean of the others the difference is {others}" if others else ""
    return [
        Claim(whole.name, whole.text, whole.paper, told, whole.verdict),
        Claim(rest.name, rest.text, rest.paper, rest.ours + by_others, rest.verdict),
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

    conflict, early, late = rise("mean"), rise("mean", "first"), rise("mean", "last")
    others = {seed: -value for seed, value in rise("leave_one_out").items()}
    return [
        Claim("conflict", "Conflict rises over training", NO_NUMBER,
              f"By {say(conflict)} hundredths{_ceiling(histories)}" if conflict else "",
              verdict(estimate(conflict.values()))),
        compare("levels", "Its rise slows down towards a peak", "peak at about 400k steps",
                ("hundredths in the first third", early), ("in the last", late)),
        Claim("artefact", "Agreement falls by the leave-one-out cosine too, which has no "
              "floor of 1/sqrt(N)", OURS, f"By {say(others)} hundredths" if others else "",
              verdict(estimate(others.values()))),
    ]  # fmt: skip


def _ceiling(histories: Mapping[int, list[Record]]) -> str:
    """Say where conflict peaks, and when it passes what independent gradients have."""
    peaks, crossings = [], []
    for records in histories.values():
        peaks.append(max(records, key=lambda record: record["mean"])["step"])
        above = (r["step"] for r in records if r["mean"] > 1 - r["independent"])
        crossings.append(next(above, None))
    ceiling = 1 - next(iter(histories.values()))[0]["independent"]
    return (
        f"; highest at step {_listed(peaks)}; above {ceiling:.2f}, which independent gradients "
        f"have, from step {_listed(crossings)}"
    )


def _listed(steps: list[int | None]) -> str:
    return " / ".join("never" if step is None else f"{step:,}" for step in steps)


def _in_experts(results: Results) -> list[Claim]:
    def inside(method: str, name: str, key: str) -> Scores:
        return _hundredths(expert_conflict(results, method, name, key))

    whole, agreement = "m3dt-ungrouped", "leave_one_out"
    return [
        compare("group conflict", "Tasks conflict less in the experts of their group than all do "
                "in experts without groups", NO_NUMBER,
                ("hundredths of conflict without groups", inside(whole, "all", "conflict")),
                ("within groups", inside("m3dt-gradient", "grouped", "conflict"))),
        compare("group agreement", "They do so by the leave-one-out cosine too, which a small "
                "group does not raise", OURS,
                ("hundredths within groups", inside("m3dt-gradient", "grouped", agreement)),
                ("without groups", inside(whole, "all", agreement))),
        compare("gradient agreement", "Tasks agree better inside experts of gradient groups than "
                "of random ones", NO_NUMBER,
                ("hundredths, gradient", inside("m3dt-gradient", "grouped", agreement)),
                ("random", inside("m3dt-random", "grouped", agreement))),
    ]  # fmt: skip


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
