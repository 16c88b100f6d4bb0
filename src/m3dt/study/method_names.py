"""The methods of the study: titles, the part that holds each, and what each is compared with."""

from __future__ import annotations

PROMPT_DT = "promptdt"
BASELINES = {PROMPT_DT: "Prompt-DT", "mtdt": "MTDT", "harmodt": "HarmoDT"}
M3DT = {"m3dt-random": "M3DT-Random", "m3dt-gradient": "M3DT-Gradient"}
METHODS = (
    *(("baselines", method, title) for method, title in BASELINES.items()),
    *(("m3dt", method, title) for method, title in M3DT.items()),
)
"""Part of the study, method and title."""

ABLATIONS = {
    "m3dt-gradient": "M3DT-Gradient",
    "m3dt-random": "M3DT-Random",
    "m3dt-end-to-end": "without 3-stage",
    "m3dt-ungrouped": "without grouping",
    "m3dt-unfrozen-gradient": "without expert freezing (gradient)",
    "m3dt-unfrozen-random": "without expert freezing (random)",
    "m3dt-big-experts": "big experts",
}
RESIDUALS = ("to h (equations 3 and 4)", "to LN(h) (the published code)")
"""Where the experts' output is added: in the paper's equations, and in its code."""


def reference_method(method: str) -> str:
    """Return the M3DT that a variant is compared with: the one with the same groups.

    Variants without groups are compared with M3DT-Random, as in the paper.
    """
    grouped_by_gradient = "gradient" in method or method in ("m3dt-big-experts", "m3dt-top-k")
    return "m3dt-gradient" if grouped_by_gradient else "m3dt-random"
