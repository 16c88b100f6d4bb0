"""Presets: methods, sizes and compatibility, each a name for several settings.

Settings in the same file, or in the same command, override those of the preset.
"""

from typing import Any

Preset = dict[str, Any]

_RANDOM: Preset = {"grouping": {"method": "random"}}
_GRADIENT: Preset = {"grouping": {"method": "gradient"}}
_CLONING: Preset = {"model": {"condition_on_return": False}}
_UNFROZEN: Preset = {"moe": {"training": "unfrozen_experts", "router": "token"}}

METHODS: dict[str, Preset] = {
    "m3dt-gradient": _GRADIENT,
    "m3dt-random": _RANDOM,
    "m3dt-big-experts": {**_GRADIENT, "moe": {"expert": "trunk"}},
    "m3dt-top-k": {**_GRADIENT, "moe": {"top_k": 4, "router": "token"}},
    "m3dt-ungrouped": {"moe": {"training": "ungrouped", "router": "token"}},
    "m3dt-unfrozen-random": {**_RANDOM, **_UNFROZEN},
    "m3dt-unfrozen-gradient": {**_GRADIENT, **_UNFROZEN},
    "m3dt-end-to-end": {"moe": {"router": "token"}},
    "promptdt": {},
    "mtdt": {"model": {"task_embedding": 12}},
    # As in the original; `loader.sampling=mixed` beside the name mixes tasks.
    "harmodt": {"loader": {"sampling": "one_task"}},
    "bc": _CLONING,
    "bc-best": {**_CLONING, "loader": {"best_share": 0.1}},
}
"""Settings of each method: the rows of tables 1 and 2, and behaviour cloning."""

BASELINES = ("promptdt", "mtdt", "harmodt", "bc", "bc-best", "m3dt-end-to-end")
"""Methods without stages: the whole model is trained once, on all tasks."""

SIZES = ("default", "small", "large")


def size_preset(method: str, size: str) -> Preset:
    """Return the settings of a size; `large` has about 173 million parameters (table 4)."""
    if size == "default":
        return {}
    if size == "small":
        return {"model": {"n_embd": 128}}
    if method.startswith("m3dt"):
        return {"model": {"n_embd": 256}, "moe": {"num_experts": 48}}
    return {"model": {"n_embd": 1536}}


COMPAT: dict[str, Preset] = {
    "none": {},
    "official": {
        "model": {"residual": "official"},
        "loader": {"normalization": "official"},
        "grouping": {"gradient_clip": 0.25},
        "evaluation": {"history": "all_dims"},
    },
}
"""Settings of each compatibility; `official` follows the authors' code."""
