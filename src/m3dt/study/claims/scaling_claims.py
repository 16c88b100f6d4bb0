"""Claims about more tasks, parameters and experts: figures 2, 3, 6, 8, 10."""

from __future__ import annotations

from dataclasses import replace

from m3dt.study import paper, queries
from m3dt.study.claims.claim import (
    MISSING,
    NO_NUMBER,
    NOT_IN_PAPER,
    Claim,
    compare,
    joint_verdict,
    verdict,
)
from m3dt.study.estimates import Scores, estimate, format_scores, minus
from m3dt.study.method_names import PROMPT_DT
from m3dt.study.queries import FEW, MANY, MEDIUM
from m3dt.study.study_results import Results

_EXPERTS = ("experts", "More experts help")
_LEVELS = ("experts level", "Their gain levels off")
_ORACLE = ("oracle", "The oracle's lead over the router grows with experts")


def scaling_claims(results: Results) -> list[Claim]:
    """Return the claims about how scores change with tasks, parameters and experts."""
    return [
        *_tasks(results),
        _saturation(results),
        *_experts(results),
        *_at_every_width(results),
        _shape(results),
    ]


def _tasks(results: Results) -> list[Claim]:
    (few, many), m3dt = (
        [queries.scores_on_list(results, FEW, trained, method) for trained in (FEW, MANY)]
        for method in (PROMPT_DT, "m3dt-gradient")
    )
    text = f"Prompt-DT scores lower on the same {FEW} tasks when trained on {MANY}"
    return [
        compare("tasks", text, "by about 20 %, each number on its own tasks",
                (f"trained on {FEW}", few), (f"on {MANY}", many)),
        compare("drop", "M3DT loses a smaller share of its score than Prompt-DT",
                f"{paper.DROP_10_TO_160} % against about 20 %",
                ("Lost by Prompt-DT", _percent_lost(few, many)),
                ("by M3DT", _percent_lost(*m3dt)), " %"),
    ]  # fmt: skip


def _percent_lost(before: Scores, after: Scores) -> Scores:
    return {s: 100 * (1 - after[s] / before[s]) for s in before.keys() & after.keys()}


def _saturation(results: Results) -> Claim:
    text = f"A second doubling of width gains less than the first at {MEDIUM} tasks"
    stated, sizes = "wider models saturate at 160 tasks", queries.widths(results)
    doublings = [(width, 2 * width) for width in sizes if 2 * width in sizes]
    if len(doublings) < 2:
        return Claim("width", text, stated, "", MISSING)
    first, last = (
        (
            f"from {narrow} to {wide}",
            minus(*(queries.prompt_dt_scores(results, MEDIUM, width) for width in (wide, narrow))),
        )
        for narrow, wide in (doublings[0], doublings[-1])
    )
    return compare("width", text, stated, (f"Points gained {first[0]}", first[1]), last)


def _experts(results: Results) -> list[Claim]:
    routed = queries.scores_by_experts(results)
    oracle = queries.scores_by_experts(results, "oracle")
    gain = "by {} to {} %".format(*paper.MORE_EXPERTS)
    fewest, default, most = min(routed), queries.base().moe.num_experts, max(routed)
    if len({fewest, default, most}) < 3:
        stated = ((_EXPERTS, gain), (_LEVELS, NO_NUMBER), (_ORACLE, NO_NUMBER))
        return [Claim(*claim, number, "", MISSING) for claim, number in stated]
    change = minus(routed[default], routed[fewest])
    percent = {seed: 100 * points / routed[fewest][seed] for seed, points in change.items()}
    listed = ", ".join(f"{count}: {format_scores(scores)}" for count, scores in routed.items())
    ours = f"By experts {listed}; from {fewest} to {default}: {format_scores(percent, ' %')}"
    counts = list(routed)
    first_step, last_step = (
        (f"from {fewer} to {more}", minus(routed[more], routed[fewer]))
        for fewer, more in (counts[:2], counts[-2:])
    )
    leads = {count: minus(oracle[count], routed[count]) for count in routed}
    many, few = (f"Points with {most} experts", leads[most]), (f"with {fewest}", leads[fewest])
    return [
        Claim(*_EXPERTS, gain, ours, verdict(estimate(change.values()))),
        compare(*_LEVELS, NO_NUMBER, (f"Points {first_step[0]}", first_step[1]), last_step),
        compare(*_ORACLE, NO_NUMBER, many, few),
    ]


def _at_every_width(results: Results) -> list[Claim]:
    routed, oracle, backbone = (
        queries.scores_by_width(results, column) for column in ("score", "oracle", "backbone")
    )
    return [
        _leads("width gain", "M3DT beats its own backbone at every width", NOT_IN_PAPER, routed,
               backbone),
        _leads("router gap", "The oracle, which knows each task's expert, beats the router at "
               "every width", "an upper bound", oracle, routed),
    ]  # fmt: skip


def _leads(
    name: str, text: str, stated: str, better: dict[int, Scores], worse: dict[int, Scores]
) -> Claim:
    leads = {width: minus(better[width], worse[width]) for width in worse}
    verdicts = [verdict(estimate(lead.values())) for lead in leads.values()]
    listed = ", ".join(f"{width}: {format_scores(lead)}" for width, lead in leads.items())
    found = joint_verdict(verdicts) if len(verdicts) > 1 else MISSING
    return Claim(name, text, stated, f"Lead in points by width {listed}", found)


def _shape(results: Results) -> Claim:
    many, *middle, few = queries.scores_by_shape(results).items()
    text = "With equal parameters in experts, few wide experts beat many narrow ones"
    claim = compare("shape", text, NOT_IN_PAPER, few, many)
    listed = ", ".join(f"{title}: {format_scores(scores)}" for title, scores in middle)
    return replace(claim, ours=f"{claim.ours}; {listed}")
