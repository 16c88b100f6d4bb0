"""Claims on more tasks, parameters and experts: figures 2, 3, 6, 8, 10."""

from __future__ import annotations

from m3dt.study import paper
from m3dt.study.claims.claim import (
    MISSING,
    NO_NUMBER,
    OURS,
    Claim,
    compare,
    joint_verdict,
    say,
    verdict,
)
from m3dt.study.estimates import Results, Scores, difference, estimate, minus
from m3dt.study.lookup import (
    MAIN,
    base,
    by_experts,
    by_width,
    on_list,
    prompt_dt,
    shapes,
    widths,
)

_FEW, _MANY = 10, 160


def scaling_claims(results: Results) -> list[Claim]:
    """Return the claims on how scores change with tasks, parameters and experts."""
    return [
        *_tasks(results),
        _saturation(results),
        *_experts(results),
        *_at_every_width(results),
        _shape(results),
    ]


def _tasks(results: Results) -> list[Claim]:
    pairs = [
        [on_list(results, _FEW, learned, method) for learned in (_FEW, _MANY)]
        for method in ("promptdt", "m3dt-gradient")
    ]
    text = f"Prompt-DT plays the same {_FEW} tasks worse where it learned {_MANY}"
    lost = [_lost(few, many) for few, many in pairs]
    (few, many), _ = pairs
    return [
        compare("tasks", text, "by about 20 %, each number on its own tasks",
                (f"{_FEW} learned", few), (f"{_MANY} learned", many)),
        compare("drop", "M3DT loses less of its score by that than Prompt-DT",
                f"{paper.DROP_10_TO_160} % against about 20 %", ("Lost by Prompt-DT", lost[0]),
                ("by M3DT", lost[1]), " %"),
    ]  # fmt: skip


def _lost(few: Scores, many: Scores) -> Scores:
    return {seed: 100 * (1 - many[seed] / few[seed]) for seed in few.keys() & many.keys()}


def _saturation(results: Results) -> Claim:
    text = f"A second doubling of width gains less than the first at {MAIN} tasks"
    sizes = widths(results)
    doublings = [(width, 2 * width) for width in sizes if 2 * width in sizes]
    if len(doublings) < 2:
        return Claim("width", text, "wider models saturate at 160 tasks", "", MISSING)
    first, last = (
        (
            f"from {narrow} to {wide}",
            minus(prompt_dt(results, MAIN, wide), prompt_dt(results, MAIN, narrow)),
        )
        for narrow, wide in (doublings[0], doublings[-1])
    )
    titled = f"Points gained {first[0]}", first[1]
    return compare("width", text, "wider models saturate at 160 tasks", titled, last)


def _experts(results: Results) -> list[Claim]:
    by_count, oracle = by_experts(results), by_experts(results, "oracle")
    counts = list(by_count)
    fewest, own, most = min(by_count), base().moe.num_experts, max(by_count)
    gain = "by {} to {} %".format(*paper.MORE_EXPERTS)
    if len({fewest, own, most}) < 3:
        texts = {
            "experts": ("More experts help", gain),
            "experts level": ("Their gain levels", NO_NUMBER),
            "oracle": ("The oracle's lead over the router grows with experts", NO_NUMBER),
        }
        return [Claim(name, *told, "", MISSING) for name, told in texts.items()]
    more = difference(by_count[own], by_count[fewest])
    listed = ", ".join(f"{count}: {say(scores)}" for count, scores in by_count.items())
    relative = {
        seed: 100 * change / by_count[fewest][seed]
        for seed, change in minus(by_count[own], by_count[fewest]).items()
    }
    told = f"By experts {listed}; from {fewest} to {own}: {say(relative, ' %')}"
    leads = {count: minus(oracle[count], by_count[count]) for count in by_count}
    return [
        Claim("experts", "More experts help", gain, told, verdict(more)),
        compare("experts level", "Their gain levels", NO_NUMBER,
                (f"Points from {fewest} to {counts[1]}",
                 minus(by_count[counts[1]], by_count[fewest])),
                (f"from {counts[-2]} to {most}", minus(by_count[most], by_count[counts[-2]]))),
        compare("oracle", "The oracle's lead over the router grows with experts", NO_NUMBER,
                (f"Points with {most} experts", leads[most]), (f"with {fewest}", leads[fewest])),
    ]  # fmt: skip


def _at_every_width(results: Results) -> list[Claim]:
    routed, oracle, backbone = (by_width(results, c) for c in ("score", "oracle", "backbone"))
    return [
        _leads("width gain", "M3DT beats its own backbone at every width", OURS, routed, backbone),
        _leads("router gap", "The oracle, which knows each task's expert, leads the router at "
               "every width", "an upper bound", oracle, routed),
    ]  # fmt: skip


def _leads(
    name: str, text: str, stated: str, better: dict[int, Scores], worse: dict[int, Scores]
) -> Claim:
    leads = {width: minus(better[width], worse[width]) for width in worse}
    verdicts = [verdict(estimate(lead.values())) for lead in leads.values()]
    listed = ", ".join(f"{width}: {say(lead)}" for width, lead in leads.items())
    found = joint_verdict(verdicts if len(verdicts) > 1 else [MISSING])
    return Claim(name, text, stated, f"Lead in points by width {listed}", found)


def _shape(results: Results) -> Claim:
    found = list(shapes(results).items())
    text = (
        "M3DT of few wide experts beats that of many narrow ones, of as many parameters in experts"
    )
    claim = compare("shape", text, OURS, found[-1], found[0])
    middle = ", ".join(f"{title}: {say(scores)}" for title, scores in found[1:-1])
    return Claim(claim.name, text, OURS, f"{claim.ours}; {middle}", claim.verdict)
