"""Claims on the parts of M3DT: table 2, figures 7 and 9, and two questions of ours."""

from __future__ import annotations

from m3dt.study import paper
from m3dt.study.claims.claim import NO_NUMBER, OURS, Claim, compare, say
from m3dt.study.estimates import Results
from m3dt.study.figures.ablations import ABLATIONS, ablation, residuals, timesteps, whole
from m3dt.study.lookup import base, by_backbone_steps, by_top_k, m3dt


def ablation_claims(results: Results) -> list[Claim]:
    """Return the claims on what M3DT owes to its parts."""
    known = {method: f"M3DT-Random {paper.SCORES['m3dt-random'][160]}, this {score}"
             for method, score in paper.ABLATIONS.items()}  # fmt: skip
    compared = (
        ("three stages", "m3dt-end-to-end", "Three stages beat training end to end"),
        ("grouping", "m3dt-ungrouped", "Groups beat none"),
        ("big experts", "m3dt-big-experts", "Experts in the blocks beat big ones"),
        ("freezing", "m3dt-unfrozen-gradient", "Freezing gradient groups' experts beats training "
         "them on with the router"),
        ("freezing random", "m3dt-unfrozen-random", "So does freezing those of random groups"),
    )  # fmt: skip
    return [
        *(
            compare(
                name,
                text,
                known.get(method, NO_NUMBER),
                (ABLATIONS[whole(method)], ablation(results, whole(method))),
                (ABLATIONS[method], ablation(results, method)),
            )
            for name, method, text in compared
        ),
        *_stopping(results),
        _top_k(results),
        _residual(results),
        _timesteps(results),
    ]


def _stopping(results: Results) -> list[Claim]:
    found, own = by_backbone_steps(results), base().stage1.max_steps
    shortest, longest = min(found), max(found)
    return [
        compare("stopping", f"A backbone of {own:,} steps, its learning rate at zero by then, "
                "makes a better M3DT than a longer one",
                "400k steps, the peak of conflict, beat 600k and more", (f"{own:,}", found[own]),
                (f"{longest:,}", found[longest] if longest > own else {})),
        compare("stopping early", f"A backbone of {own:,} steps makes a better M3DT than a "
                "shorter one", "400k steps beat 200k", (f"{own:,}", found[own]),
                (f"{shortest:,}", found[shortest] if shortest < own else {})),
    ]  # fmt: skip


def _top_k(results: Results) -> Claim:
    known = {k: scores for k, scores in by_top_k(results).items() if scores}
    text = "A router of all experts beats one of the top k"
    if not known:
        return compare("top-k", text, NO_NUMBER, ("All experts", m3dt(results)), ("top k", {}))
    best = max(known, key=lambda k: sum(known[k].values()) / len(known[k]))
    chosen = f"best k = {best}", known[best]
    found = compare("top-k", text, NO_NUMBER, ("All experts", m3dt(results)), chosen)
    listed = ", ".join(f"k = {k}: {say(scores)}" for k, scores in known.items())
    return Claim(found.name, text, NO_NUMBER, f"{found.ours}; {listed}", found.verdict)


def _residual(results: Results) -> Claim:
    ours, official = residuals(results)
    text = "Adding experts to h, as the paper writes, beats adding them to LN(h), as its code does"
    return compare("residual", text, OURS, ("to h", ours), ("to LN(h)", official))


def _timesteps(results: Results) -> Claim:
    small, large = timesteps(results)
    text = f"Timestep tables that begin at N(0, {base().model.timestep_std}^2) beat N(0, 1)"
    return compare("timesteps", text, OURS, ("small", small), ("N(0, 1)", large))
