"""Claims about the parts of M3DT: table 2, figures 7 and 9, and two implementation choices."""

from __future__ import annotations

from dataclasses import replace

from m3dt.study import paper, queries
from m3dt.study.claims.claim import NO_NUMBER, NOT_IN_PAPER, Claim, compare
from m3dt.study.estimates import format_scores
from m3dt.study.method_names import ABLATIONS, reference_method
from m3dt.study.study_results import Results

_COMPARISONS = (
    ("three stages", "m3dt-end-to-end", "Three stages beat training end to end"),
    ("grouping", "m3dt-ungrouped", "Task groups beat no groups"),
    ("big experts", "m3dt-big-experts", "Experts inside the blocks beat big experts"),
    ("freezing", "m3dt-unfrozen-gradient", "Freezing the experts of gradient groups beats "
     "training them on with the router"),
    ("freezing random", "m3dt-unfrozen-random", "Freezing the experts of random groups beats "
     "training them on with the router"),
)  # fmt: skip


def ablation_claims(results: Results) -> list[Claim]:
    """Return the claims about what each part of M3DT contributes."""
    return [
        *(_ablation(results, name, method, text) for name, method, text in _COMPARISONS),
        *_stopping(results),
        _top_k(results),
        _residual(results),
        _timesteps(results),
    ]


def _ablation(results: Results, name: str, method: str, text: str) -> Claim:
    stated = NO_NUMBER
    if method in paper.ABLATIONS:
        whole = paper.ABLATIONS["m3dt-random"]
        stated = f"M3DT-Random {whole}, this {paper.ABLATIONS[method]}"
    better, worse = (
        (ABLATIONS[m], queries.ablation_scores(results, m))
        for m in (reference_method(method), method)
    )
    return compare(name, text, stated, better, worse)


def _stopping(results: Results) -> list[Claim]:
    found, default = queries.scores_by_backbone_steps(results), queries.base().stage1.max_steps
    shortest, longest = min(found), max(found)
    ours = f"{default:,}", found[default]
    return [
        compare("stopping", f"A backbone trained for {default:,} steps, with its learning rate "
                "decayed to zero, makes a better M3DT than longer training",
                "400k steps, the peak of conflict, beat 600k and more", ours,
                (f"{longest:,}", found[longest] if longest > default else {})),
        compare("stopping early", f"A backbone trained for {default:,} steps makes a better M3DT "
                "than shorter training", "400k steps beat 200k", ours,
                (f"{shortest:,}", found[shortest] if shortest < default else {})),
    ]  # fmt: skip


def _top_k(results: Results) -> Claim:
    known = {k: scores for k, scores in queries.scores_by_top_k(results).items() if scores}
    text = "A dense router beats a top-k router"
    dense = "All experts", queries.m3dt_scores(results)
    if not known:
        return compare("top-k", text, NO_NUMBER, dense, ("top k", {}))
    best = max(known, key=lambda k: sum(known[k].values()) / len(known[k]))
    claim = compare("top-k", text, NO_NUMBER, dense, (f"best k = {best}", known[best]))
    listed = ", ".join(f"k = {k}: {format_scores(scores)}" for k, scores in known.items())
    return replace(claim, ours=f"{claim.ours}; {listed}")


def _residual(results: Results) -> Claim:
    to_h, official = queries.residual_scores(results)
    text = "Adding experts to h, as in the paper, beats adding them to LN(h), as in its code"
    return compare("residual", text, NOT_IN_PAPER, ("to h", to_h), ("to LN(h)", official))


def _timesteps(results: Results) -> Claim:
    small, large = queries.timestep_scores(results)
    std = queries.base().model.timestep_std
    text = f"Timestep embeddings initialised from N(0, {std}^2) beat N(0, 1)"
    return compare("timesteps", text, NOT_IN_PAPER, ("small", small), ("N(0, 1)", large))
