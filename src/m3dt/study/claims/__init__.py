"""The paper's claims: our numbers, and whether each claim holds."""

from __future__ import annotations

from collections.abc import Callable

from m3dt.study.claims.ablation_claims import ablation_claims
from m3dt.study.claims.claim import Claim
from m3dt.study.claims.conflict_claims import conflict_claims
from m3dt.study.claims.method_claims import method_claims
from m3dt.study.claims.scaling_claims import scaling_claims
from m3dt.study.markdown import markdown_table
from m3dt.study.study_results import Results

__all__ = ["SUBJECTS", "claims", "claims_table"]

SUBJECTS: dict[str, Callable[[Results], list[Claim]]] = {
    "scaling": scaling_claims,
    "conflict": conflict_claims,
    "methods": method_claims,
    "ablations": ablation_claims,
}


def claims(results: Results, subject: str = "") -> list[Claim]:
    """Return all claims that the study tests, or those of one subject."""
    chosen = [subject] if subject else list(SUBJECTS)
    return [claim for name in chosen for claim in SUBJECTS[name](results)]


def claims_table(results: Results, subject: str = "") -> str:
    """Return all claims, or those of one subject, as Markdown."""
    rows = [[c.text, c.paper, c.ours, c.verdict] for c in claims(results, subject)]
    header = ["claim", "paper", "here, mean over seeds [95 % interval]", "verdict"]
    return markdown_table(header, rows)
