"""Claims about more tasks, parameters and experts: figures 2, 3, 6, 8, 10, and returns."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from m3dt.study import paper, queries, setting_queries
from m3dt.study.claims.claim import NO_NUMBER, NOT_IN_PAPER, Claim, compare, listed
from m3dt.study.estimates import Scores, format_scores, minus, percent_above, scaled
from m3dt.study.paper import BASELINES, M3DT, PROMPT_DT
from m3dt.study.study_results import Results


def scaling_claims(results: Results) -> list[Claim]:
    """Return the claims about how scores change with tasks, parameters, experts and targets."""
    return [
        *(_tasks(results) if results.few < results.many else []),
        _saturation(results),
        *_experts(results),
        *_at_every_width(results),
        _expert_shape(results),
        _shape(results),
        _returns(results),
    ]


def _tasks(results: Results) -> list[Claim]:
    few, many = results.few, results.many
    (before, after), m3dt = (
        [queries.scores_on_list(results, few, trained, method) for trained in (few, many)]
        for method in (PROMPT_DT, "m3dt-gradient")
    )

    def percent_lost(before: Scores, after: Scores) -> Scores:
        return scaled(-1, percent_above(after, before))

    return [
        compare("tasks", f"Prompt-DT scores lower on the same {few} tasks when trained on {many}",
                "by about 20 %, each number on its own tasks",
                (f"trained on {few}", before), (f"on {many}", after)),
        compare("drop", "M3DT loses a smaller share of its score than Prompt-DT when trained on "
                f"{many} tasks instead of {few}", f"{paper.DROP_10_TO_160} % against about 20 %",
                ("lost by Prompt-DT", percent_lost(before, after)),
                ("by M3DT", percent_lost(*m3dt)), "%"),
    ]  # fmt: skip


def _saturation(results: Results) -> Claim:
    text = f"Doubling Prompt-DT's width gains less the wider it is at {results.medium} tasks"
    stated, sizes = "wider models saturate at 160 tasks", queries.widths(results)
    doublings = [(width, 2 * width) for width in sizes if 2 * width in sizes]
    if len(doublings) < 2:
        return Claim("width", text, stated)
    scores = {width: queries.prompt_dt_scores(results, width=width) for width in sizes}
    first, last = _gains("gained", scores, doublings)
    return compare("width", text, stated, first, last)


def _gains(
    what: str, scores: Mapping[int, Scores], steps: Sequence[tuple[int, int]]
) -> tuple[tuple[str, Scores], tuple[str, Scores]]:
    """Return the gains of the first and the last step from one number to a larger one."""
    (a, b), (c, d) = steps[0], steps[-1]
    first = f"{what} from {a} to {b}", minus(scores[b], scores[a])
    return first, (f"from {c} to {d}", minus(scores[d], scores[c]))


def _experts(results: Results) -> list[Claim]:
    routed, oracle = (setting_queries.scores_by(results, "experts", c) for c in ("score", "oracle"))
    fewest, default, most = min(routed), results.base.moe.num_experts, max(routed)
    more = "experts", "More experts help", "by {} to {} %".format(*paper.MORE_EXPERTS)
    level = "experts level", "Their gain levels off", NO_NUMBER
    lead = "oracle", "The oracle's lead over the router grows with experts", NO_NUMBER
    if len({fewest, default, most}) < 3:
        return [Claim(*claim) for claim in (more, level, lead)]
    percent = format_scores(percent_above(routed[default], routed[fewest]), " %")
    ours = f"by experts {listed(routed.items())}; from {fewest} to {default}: {percent}"
    first, last = _gains("gained", routed, list(pairwise(routed)))
    leads = {count: minus(oracle[count], routed[count]) for count in routed}
    return [
        Claim(more[0], f"{default} experts beat {fewest}", more[2], ours,
              {"": minus(routed[default], routed[fewest])}),
        compare(*level, first, last),
        compare(*lead, (f"with {most} experts", leads[most]), (f"with {fewest}", leads[fewest])),
    ]  # fmt: skip


def _at_every_width(results: Results) -> list[Claim]:
    routed, oracle, backbone = (
        setting_queries.scores_by(results, "width", column)
        for column in ("score", "oracle", "backbone")
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
    leads = {f"at width {width}": minus(better[width], worse[width]) for width in worse}
    return Claim(name, text, stated, differences=leads if len(leads) > 1 else {})


def _expert_shape(results: Results) -> Claim:
    many, *middle, few = setting_queries.scores_by_expert_shape(results).items()
    text = "With equal parameters in experts, few wide experts beat many narrow ones"
    note = f"; {listed(middle)}" if few[1] and many[1] else ""
    return compare("expert shape", text, NOT_IN_PAPER, few, many, note=note)


def _shape(results: Results) -> Claim:
    own, *others = setting_queries.scores_by_shape(results).items()
    leads = {f"over {shape}": minus(own[1], scores) for shape, scores in others}
    layers, heads, width = own[0].split(" x ")
    text = (
        f"Prompt-DT with {layers} layers, {heads} heads and width {width} beats every other shape "
        "of about its size"
    )
    stated = "figure 10 compares such shapes, no number stated"
    ours = listed([own, *others]) if others else ""
    return Claim("shape", text, stated, ours, leads)


def _returns(results: Results) -> Claim:
    """Claim that models do what they are asked for, by the ends of what they are asked for."""
    text = "Models asked for more return score more"
    leads, shown = {}, []
    for method, title in (BASELINES | M3DT).items():
        found = setting_queries.scores_by_target(results, method)
        asked = [share for share in found if share <= 1]
        if len(asked) > 1:
            low, high = asked[0], asked[-1]
            leads[f"for {title}"] = minus(found[high], found[low])
            values = ((f"{share:g}", found[share]) for share in (low, high))
            shown.append(f"{title} by share of the target {listed(values)}")
    return Claim("returns", text, NOT_IN_PAPER, "; ".join(shown), leads)
