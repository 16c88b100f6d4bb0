"""The methods of the study, and the paper's numbers for them (ICML 2025, sections 3 and 5)."""

PROMPT_DT = "promptdt"
BASELINES = {PROMPT_DT: "Prompt-DT", "mtdt": "MTDT", "harmodt": "HarmoDT"}
CLONING = {"bc": "BC", "bc-best": "BC on the best tenth of the trajectories"}
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

SCORES = {  # table 1, by method and number of tasks; 8 experts at 10
    "m3dt-random": {10: 89.09, 160: 77.89},
    "m3dt-gradient": {10: 89.23},
}
GAINS = {  # in percent of the best baseline's score
    "m3dt-random": {10: 0.1, 80: 4.3, 160: 5.4},
    "m3dt-gradient": {80: 6.6, 160: 7.5},
}
ABLATION_SCORES = {  # table 2, 160 tasks
    "m3dt-random": 77.89,
    "m3dt-end-to-end": 71.9,
    "m3dt-ungrouped": 67.34,
    "m3dt-big-experts": 76.53,
}
METAWORLD_DMCONTROL = {10: 84.77, 80: 70.52, 160: 65.90}  # M3DT-Gradient
DROP_10_TO_160 = 12.3  # percent of its score that M3DT loses; other methods lose about 20
MORE_EXPERTS = (11.2, 11.7)  # percent gained


def reference_method(method: str) -> str:
    """Return the M3DT that a variant is compared with: the one with the same groups.

    Variants without groups are compared with M3DT-Random, as in the paper.
    """
    grouped_by_gradient = "gradient" in method or method in ("m3dt-big-experts", "m3dt-top-k")
    return "m3dt-gradient" if grouped_by_gradient else "m3dt-random"
