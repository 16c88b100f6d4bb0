"""Names that stand for several settings: methods, sizes, and what the authors' files need.

A name goes before what stands beside it: settings in the same file, or with the same command.
"""

from __future__ import annotations

from typing import Any

Preset = dict[str, Any]

_RANDOM: Preset = {"grouping": {"method": "random"}}
_GRADIENT: Preset = {"grouping": {"method": "gradient"}}
_UNFROZEN: Preset = {"moe": {"training": "unfrozen_experts"}}

METHODS: dict[str, Preset] = {
    "m3dt-gradient": _GRADIENT,
    "m3dt-random": _RANDOM,
    "m3dt-big-experts": {**_GRADIENT, "moe": {"expert": "trunk"}},
    "m3dt-top-k": {**_GRADIENT, "moe": {"top_k": 4}},
    "m3dt-ungrouped": {"moe": {"training": "ungrouped"}},
    "m3dt-unfrozen-random": {**_RANDOM, **_UNFROZEN},
    "m3dt-unfrozen-gradient": {**_GRADIENT, **_UNFROZEN},
    "m3dt-end-to-end": {},
    "promptdt": {},
    "mtdt": {"model": {"task_embedding": 12}},
    # A step belongs to one task's mask.
    "harmodt": {"loader": {"sampling": "one_task"}},
}
"""Rows of tables 1 and 2."""

BASELINES = ("promptdt", "mtdt", "harmodt", "m3dt-end-to-end")
"""Methods without stages: one training of everything on all tasks."""

SIZES = ("default", "small", "large")


def size_preset(method: str, size: str) -> Preset:
    """Return what a size means: `large` has about 173 million parameters (table 4)."""
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
