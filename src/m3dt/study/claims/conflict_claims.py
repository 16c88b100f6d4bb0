"""Claims about the agreement of the tasks' gradients: figures 2, 5, 7, 12."""

from collections.abc import Mapping
from typing import Literal

from m3dt.study import conflict_queries as queries
from m3dt.study.claims.claim import NO_NUMBER, NOT_IN_PAPER, Claim, compare
from m3dt.study.conflict_queries import Agreement, Among, Similarity
from m3dt.study.estimates import Scores, format_scores, minus, scaled
from m3dt.study.study_results import ConflictRecord, Results

_UNIT = "hundredths"  # of cosines


def conflict_claims(results: Results) -> list[Claim]:
    """Return the claims about conflict between tasks."""
    return [
        *(_over_tasks(results) if results.few < results.many else []),
        *_over_training(results),
        *_in_experts(results),
        *_in_modules(results),
    ]


def _over_tasks(results: Results) -> list[Claim]:
    few, many = results.few, results.many

    def at(tasks: int, measure: Similarity) -> tuple[str, Scores]:
        scores = scaled(100, queries.final_similarity(results, tasks, measure))
        return f"at {tasks} tasks" if tasks == few else f"at {tasks}", scores

    expected = 100 / few**0.5 - 100 / many**0.5
    others = minus(at(few, "leave_one_out")[1], at(many, "leave_one_out")[1])
    by_others = f"; difference of the leave-one-out cosine: {format_scores(others, f' {_UNIT}')}"
    return [
        compare("similarity", "The more tasks, the less their gradients agree with the mean",
                "falls, no number stated", at(few, "to_mean"), at(many, "to_mean"), _UNIT,
                f"; 1/sqrt(N) alone falls by {expected:.1f}"),
        compare("similarity remains", "Pairs of tasks agree less too; the number of tasks does "
                "not bias this measure", NOT_IN_PAPER, at(few, "pairwise"), at(many, "pairwise"),
                _UNIT, by_others if others else ""),
    ]  # fmt: skip


def _over_training(results: Results) -> list[Claim]:
    histories = queries.backbone_histories(results)

    def rise(
        measure: Literal["mean", "leave_one_out"], span: Literal["whole", "first", "last"]
    ) -> Scores:
        rises = {}
        for seed, records in histories.items():
            third = len(records) // 3
            first, last = {"whole": (0, -1), "first": (0, third), "last": (-third - 1, -1)}[span]
            rises[seed] = 100 * (records[last][measure] - records[first][measure])
        return rises

    conflict, others = rise("mean", "whole"), scaled(-1, rise("leave_one_out", "whole"))
    return [
        Claim("conflict", "Conflict rises over training", NO_NUMBER, _peak(histories),
              {"": conflict}, _UNIT),
        compare("levels", "Its rise slows down towards a peak", "peak at about 400k steps",
                ("in the first third", rise("mean", "first")),
                ("in the last", rise("mean", "last")), _UNIT),
        Claim("artefact", "Agreement measured by the leave-one-out cosine, which has no floor of "
              "1/sqrt(N), falls over training too", NOT_IN_PAPER, "", {"": others}, _UNIT),
    ]  # fmt: skip


def _peak(histories: Mapping[int, list[ConflictRecord]]) -> str:
    """Return where conflict peaks, and where it exceeds that of independent gradients."""
    if not histories:
        return ""
    peaks: list[int | None] = []
    crossings: list[int | None] = []
    for records in histories.values():
        peaks.append(max(records, key=lambda record: record["mean"])["step"])
        above = (r["step"] for r in records if r["mean"] > 1 - r["independent"])
        crossings.append(next(above, None))
    independent = 1 - next(iter(histories.values()))[0]["independent"]
    return (
        f"highest at step {_listed(peaks)}; above {independent:.2f}, the value of independent "
        f"gradients, from step {_listed(crossings)}"
    )


def _listed(steps: list[int | None]) -> str:
    return " / ".join("never" if step is None else f"{step:,}" for step in steps)


def _in_experts(results: Results) -> list[Claim]:
    def inside(method: str, among: Among, measure: Agreement = "leave_one_out") -> Scores:
        return scaled(100, queries.expert_agreement(results, method, among, measure))

    gradient, ungrouped = "m3dt-gradient", "m3dt-ungrouped"
    return [
        compare("group conflict", "Tasks conflict less in the experts of their group than all "
                "tasks do in experts without groups", NO_NUMBER,
                ("conflict without groups", inside(ungrouped, "all", "conflict")),
                ("within groups", inside(gradient, "grouped", "conflict")), _UNIT),
        compare("group agreement", "They also do so by the leave-one-out cosine, which small "
                "groups do not inflate", NOT_IN_PAPER,
                ("cosine within groups", inside(gradient, "grouped")),
                ("without groups", inside(ungrouped, "all")), _UNIT),
        compare("gradient agreement", "Tasks agree better inside experts of gradient groups than "
                "of random groups", NO_NUMBER,
                ("cosine in gradient groups", inside(gradient, "grouped")),
                ("in random groups", inside("m3dt-random", "grouped")), _UNIT),
    ]  # fmt: skip


def _in_modules(results: Results) -> list[Claim]:
    models = queries.widened_models(results)
    mlp, attention, plain = models["mlp"], models["attention"], models["none"]
    in_mlp, in_attention = (
        scaled(100, queries.module_conflict(results, plain.cell, module))
        for module in ("mlp", "attention")
    )
    unchanged = f"; {plain.title}: {format_scores(plain.scores)}"
    stated = "appendix B.2, no number stated"
    return [
        compare("modules", "Widening the MLP alone helps more than widening attention alone",
                stated, (mlp.title, mlp.scores), (attention.title, attention.scores),
                note=unchanged if minus(mlp.scores, attention.scores) else ""),
        compare("module conflict", "Tasks conflict more in the MLPs than in attention", stated,
                ("in MLPs", in_mlp), ("in attention", in_attention), _UNIT),
    ]  # fmt: skip
