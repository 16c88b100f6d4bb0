"""What a study says of the paper's claims: our numbers, and whether each claim holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from m3dt.figures import paper
from m3dt.figures.methods import markdown
from m3dt.figures.results import Estimate, Results, difference, estimate
from m3dt.figures.scaling import experts_points
from m3dt.figures.training import BACKBONE_STEPS, expert_conflict

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "cannot be told", "not measured"
Scores = Mapping[int, float]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper beside our numbers.

    Attributes:
        name: A word to find it by.
        text: What the paper says, with its number where it states one.
        ours: Our numbers.
        verdict: One of `HOLDS`, `FAILS`, `OPEN`, `MISSING`.
    """

    name: str
    text: str
    ours: str
    verdict: str

    def sentence(self) -> str:
        """Return what a figure's caption says."""
        return f"{self.text}: **{self.verdict}** here. {self.ours}"


def verdict(found: Estimate | None) -> str:
    """Return whether a difference that is claimed to be positive is.

    It takes an interval, hence several seeds, to say more than that it cannot be told.
    """
    if found is None:
        return MISSING
    if found.seeds < 2:
        return OPEN
    return HOLDS if found.low > 0 else FAILS if found.high < 0 else OPEN


def claims(results: Results) -> list[Claim]:
    """Return every claim that the study was made for."""
    dense = results.scores("m3dt", suite="mt160", method="m3dt-gradient")
    return [
        *_tasks(results),
        *_conflict(results),
        _saturation(results),
        _better("three stages", "Three stages beat training end to end (77.9 to "
                f"{paper.WITHOUT_THREE_STAGES})", dense, _ablation(results, "m3dt-end-to-end")),
        _better("grouping", f"Groups beat none (77.9 to {paper.WITHOUT_GROUPING})", dense,
                _ablation(results, "m3dt-ungrouped")),
        _better("freezing", "Freezing the experts beats training them on with the router", dense,
                _ablation(results, "m3dt-unfrozen-gradient")),
        _better("big experts", f"Experts in the blocks beat big ones (77.9 to {paper.BIG_EXPERTS})",
                dense, _ablation(results, "m3dt-big-experts")),
        *_experts(results),
        _stopping(results),
        _top_k(results, dense),
        _better("gradient groups", "Gradient groups beat random ones at 160 tasks", dense,
                results.scores("m3dt", suite="mt160", method="m3dt-random")),
        *_baselines(results, dense),
        _group_conflict(results),
        _better("residual", "Adding experts to h, as the paper writes, beats adding them to LN(h), "
                "as its code does (a question of ours)", dense, results.scores("residual")),
    ]  # fmt: skip


def claims_table(results: Results) -> str:
    """Return the claims as Markdown."""
    rows = [[c.text, c.ours, c.verdict] for c in claims(results)]
    return markdown(
        ["claim of the paper", "here, mean over seeds [95 % interval]", "verdict"], rows
    )


def _ablation(results: Results, method: str) -> Scores:
    return results.scores("ablations", suite="mt160", method=method)


def _better(name: str, text: str, ours: Scores, other: Scores) -> Claim:
    found = difference(ours, other)
    told = "" if found is None else f"{estimate(ours.values())} against {estimate(other.values())}"
    change = "" if found is None else f"; difference {found}"
    return Claim(name, text, told + change, verdict(found))


def _tasks(results: Results) -> list[Claim]:
    backbone, m3dt = (
        {n: results.scores(part, suite=f"mt{n}", method=method) for n in (10, 160)}
        for part, method in (("baselines", "promptdt"), ("m3dt", "m3dt-gradient"))
    )
    falls = _better("tasks", "Scores fall from 10 to 160 tasks", backbone[10], backbone[160])
    seeds = backbone[10].keys() & backbone[160].keys() & m3dt[10].keys() & m3dt[160].keys()
    drops = {s: backbone[10][s] - backbone[160][s] for s in seeds}
    ours = {s: m3dt[10][s] - m3dt[160][s] for s in seeds}
    text = f"M3DT loses less ({paper.DROP_10_TO_160} % against about 20 %)"
    less = _better("drop", text, drops, ours)
    told = "" if not seeds else (
        f"Prompt-DT loses {estimate(drops.values())}, M3DT {estimate(ours.values())} points"
    )  # fmt: skip
    return [falls, Claim("drop", text, told, less.verdict)]


def _conflict(results: Results) -> list[Claim]:
    curves = [
        curve
        for seed in range(10)
        if (curve := results.curve(f"seed{seed}_mt160_m3dt-gradient_max_steps6000",
                                   "backbone/conflict"))
    ]  # fmt: skip
    text = "Conflict rises over training"
    if not curves:
        return [Claim("conflict", text, "", MISSING)]
    third = len(curves[0]) // 3

    def rise(curve: list[dict[str, float]], key: str, part: slice) -> float:
        values = [record[key] for record in curve][part]
        return values[-1] - values[0]

    whole = estimate(100 * rise(c, "smoothed", slice(None)) for c in curves)
    late = estimate(100 * rise(c, "smoothed", slice(-third - 1, None)) for c in curves)
    early = estimate(100 * rise(c, "smoothed", slice(0, third + 1)) for c in curves)
    others = estimate(-100 * rise(c, "leave_one_out", slice(None)) for c in curves)
    slower = difference(
        {i: 100 * rise(c, "smoothed", slice(0, third + 1)) for i, c in enumerate(curves)},
        {i: 100 * rise(c, "smoothed", slice(-third - 1, None)) for i, c in enumerate(curves)},
    )
    return [
        Claim("conflict", text, f"by {whole} hundredths", verdict(whole)),
        Claim(
            "levels",
            "and then levels",
            f"first third {early}, last third {late} hundredths",
            verdict(slower),
        ),
        Claim(
            "artefact",
            "(ours) it rises by the leave-one-out cosine too, which has no floor of 1/sqrt(N)",
            f"by {others} hundredths",
            verdict(others),
        ),
    ]


def _saturation(results: Results) -> Claim:
    narrow = results.scores("size", suite="mt160", n_embd=32)
    middle = results.scores("baselines", suite="mt160", method="promptdt")
    wide = results.scores("size", suite="mt160", n_embd=128)
    seeds = narrow.keys() & middle.keys() & wide.keys()
    first = {s: middle[s] - narrow[s] for s in seeds}
    second = {s: wide[s] - middle[s] for s in seeds}
    found = difference(first, second)
    told = "" if found is None else (
        f"32 to 64: {estimate(first.values())}, 64 to 128: {estimate(second.values())} points"
    )  # fmt: skip
    return Claim("width", "Wider models saturate at 160 tasks", told, verdict(found))


def _experts(results: Results) -> list[Claim]:
    def scores(count: int, column: str = "score") -> Scores:
        if count == 8:
            return results.scores("m3dt", column, suite="mt160", method="m3dt-gradient")
        return results.scores("experts", column, suite="mt160", num_experts=count)

    listed = ", ".join(f"{e:g}: {v}" for e, v in sorted(experts_points(results).items()) if v)
    more = difference(scores(8), scores(2))
    seeds = scores(2).keys() & scores(8).keys() & scores(16).keys()
    slower = difference(
        {s: scores(8)[s] - scores(2)[s] for s in seeds},
        {s: scores(16)[s] - scores(8)[s] for s in seeds},
    )
    gaps = {
        e: {s: o - scores(e)[s] for s, o in scores(e, "oracle").items() if s in scores(e)}
        for e in (2, 16)
    }
    grows = difference(gaps[16], gaps[2])
    told = "" if grows is None else (
        f"2 experts: {estimate(gaps[2].values())}, 16: {estimate(gaps[16].values())} points"
    )  # fmt: skip
    gain = f"More experts help (by {paper.MORE_EXPERTS[0]} to {paper.MORE_EXPERTS[1]} %)"
    return [
        Claim("experts", gain, f"{listed}; 8 - 2: {more}" if more else "", verdict(more)),
        Claim("experts level", "and then level", f"{slower}" if slower else "", verdict(slower)),
        Claim("oracle", "The oracle's lead over the router grows with experts", told,
              verdict(grows)),
    ]  # fmt: skip


def _stopping(results: Results) -> Claim:
    text = "Past some number of steps, a longer trained backbone makes M3DT worse"
    found = {s: results.scores("backbone", max_steps=s) for s in BACKBONE_STEPS}
    found[3000] = results.scores("m3dt", suite="mt160", method="m3dt-gradient")
    if not all(found.values()):
        return Claim("stopping", text, "", MISSING)
    longest = max(BACKBONE_STEPS)
    best = max(found, key=lambda s: sum(found[s].values()) / len(found[s]))
    shorter = best if best != longest else sorted(found)[-2]
    listed = ", ".join(f"{s}: {estimate(v.values())}" for s, v in found.items())
    told = f"M3DT by the backbone's steps: {listed}"
    return Claim("stopping", text, told, verdict(difference(found[shorter], found[longest])))


def _top_k(results: Results, dense: Scores) -> Claim:
    by_k = {k: results.scores("top-k", top_k=k) for k in (1, 2, 4)}
    known = {k: scores for k, scores in by_k.items() if scores}
    if not known:
        return Claim("top-k", "Top-k routing hurts", "", MISSING)
    best = max(known, key=lambda k: sum(known[k].values()) / len(known[k]))
    listed = ", ".join(f"k = {k}: {estimate(v.values())}" for k, v in known.items())
    found = difference(dense, known[best])
    told = f"{listed}; dense {estimate(dense.values())}; difference to the best {found}"
    return Claim("top-k", "Top-k routing hurts", told, verdict(found))


def _baselines(results: Results, dense: Scores) -> list[Claim]:
    wide = results.scores("size", suite="mt160", n_embd=128)
    same = _better("equal size", "M3DT beats Prompt-DT at equal size", dense, wide)
    own = results.scores("m3dt", "backbone", suite="mt160", method="m3dt-gradient")
    plain = results.scores("baselines", suite="mt160", method="promptdt")
    return [
        Claim("equal size", f"{same.text} (ours: width 128, about as many parameters)", same.ours,
              same.verdict),
        _better("equal steps", "and Prompt-DT of its backbone's width with all its steps", dense,
                plain),
        _better("backbone", "and its own backbone", dense, own),
    ]  # fmt: skip


def _group_conflict(results: Results) -> Claim:
    grouped = expert_conflict(results, "m3dt-gradient", "grouped", "leave_one_out")
    together = expert_conflict(results, "m3dt-gradient", "all", "leave_one_out")
    pairs = dict(enumerate(grouped)), dict(enumerate(together))
    text = "Tasks of a group agree better inside their expert than all tasks do"
    found = difference(*pairs)
    told = "" if found is None else (
        f"leave-one-out cosine, hundredths: {estimate(100 * v for v in grouped)} against "
        f"{estimate(100 * v for v in together)}"
    )  # fmt: skip
    return Claim("group conflict", text, told, verdict(found))
