"""Claims on more tasks, parameters and experts: figures 2, 3, 6, 8, 10."""

from __future__ import annotations

from m3dt.figures import paper
from m3dt.figures.cells import MAIN, base, by_experts, by_width, m3dt, prompt_dt, shapes, widths
from m3dt.figures.claims.claim import (
    MISSING,
    NO_NUMBER,
    OURS,
    Claim,
    compare,
    joint_verdict,
    say,
    verdict,
)
from m3dt.figures.results import Results, Scores, difference, estimate, minus

_FEW, _MANY = 10, 160


def scaling_claims(results: Results) -> list[Claim]:
    """Return the claims on how scores change with tasks, parameters and experts."""
    return [
        *_tasks(results),
        _saturation(results),
        *_experts(results),
        _router_gap(results),
        _shape(results),
    ]


def _tasks(results: Results) -> list[Claim]:
    few, many = prompt_dt(results, _FEW), prompt_dt(results, _MANY)
    text = f"Prompt-DT's scores fall from {_FEW} to {_MANY} tasks"
    lost = _lost(few, many), _lost(m3dt(results, _FEW), m3dt(results, _MANY))
    return [
        compare("tasks", text, "by about 20 %", (f"{_FEW} tasks", few), (f"{_MANY} tasks", many)),
        compare("drop", "M3DT loses less of its score than Prompt-DT",
                f"{paper.DROP_10_TO_160} % against about 20 %", ("Lost by Prompt-DT", lost[0]),
                ("by M3DT", lost[1]), " %"),
    ]  # fmt: skip


def _lost(few: Scores, many: Scores) -> Scores:
    return {seed: 100 * (1 - many[seed] / few[seed]) for seed in few.keys() & many.keys()}


def _saturation(results: Results) -> Claim:
    text = f"Wider models saturate at {MAIN} tasks"
    sizes = widths(results)
    if len(sizes) < 3:
        return Claim("width", text, NO_NUMBER, "", MISSING)
    scores = [prompt_dt(results, MAIN, width) for width in (*sizes[:2], *sizes[-2:])]
    return compare(
        "width",
        text,
        NO_NUMBER,
        (f"Points gained from width {sizes[0]} to {sizes[1]}", minus(scores[1], scores[0])),
        (f"from {sizes[-2]} to {sizes[-1]}", minus(scores[3], scores[2])),
    )


def _experts(results: Results) -> list[Claim]:
    by_count, oracle = by_experts(results), by_experts(results, "oracle")
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
                (f"Points from {fewest} to {own}", minus(by_count[own], by_count[fewest])),
                (f"from {own} to {most}", minus(by_count[most], by_count[own]))),
        compare("oracle", "The oracle's lead over the router grows with experts", NO_NUMBER,
                (f"Points with {most} experts", leads[most]), (f"with {fewest}", leads[fewest])),
    ]  # fmt: skip


def _router_gap(results: Results) -> Claim:
    scores, oracle = by_width(results), by_width(results, "oracle")
    leads = {width: minus(oracle[width], scores[width]) for width in scores}
    verdicts = [verdict(estimate(lead.values())) for lead in leads.values()]
    listed = ", ".join(f"{width}: {say(lead)}" for width, lead in leads.items())
    text = "The oracle, which knows each task's expert, leads the router at every width"
    found = joint_verdict(verdicts if len(verdicts) > 1 else [MISSING])
    return Claim("router gap", text, "an upper bound", f"Lead in points by width {listed}", found)


def _shape(results: Results) -> Claim:
    found = list(shapes(results).items())
    text = "Few wide experts beat many narrow ones of as many parameters"
    claim = compare("shape", text, OURS, found[-1], found[0])
    middle = ", ".join(f"{title}: {say(scores)}" for title, scores in found[1:-1])
    return Claim(claim.name, text, OURS, f"{claim.ours}; {middle}", claim.verdict)
