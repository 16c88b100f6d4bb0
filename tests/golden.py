"""Reads the recorded data in tests/data and builds the models it was recorded from."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from m3dt.checkpoints.official_names import (
    backbone_from_official,
    expert_from_official,
    router_from_official,
)
from m3dt.config import ModelConfig
from m3dt.data import Segment
from m3dt.models import PromptDT, add_mixtures

DATA = Path(__file__).parent / "data"
CONFIG = ModelConfig(
    n_layer=2,
    n_head=2,
    n_embd=32,
    context_length=20,
    prompt_length=5,
    dropout=0.0,
    residual="official",
)


@cache
def load_inputs(name):
    with np.load(DATA / name) as file:
        return dict(file)


@cache
def golden_weights():
    return load_file(DATA / "weights.safetensors")


def part(prefix):
    return {
        key.removeprefix(prefix): value
        for key, value in golden_weights().items()
        if key.startswith(prefix)
    }


def segment_of(arrays, prefix=""):
    rtg = arrays[f"{prefix}rtg"]
    T = arrays[f"{prefix}states"].shape[1]
    fields = (
        arrays[f"{prefix}states"],
        arrays[f"{prefix}actions"],
        rtg[:, :T],
        arrays[f"{prefix}timesteps"],
        arrays[f"{prefix}attention_mask"],
    )
    return Segment(*(torch.from_numpy(np.ascontiguousarray(field)) for field in fields))


def prompt_of(arrays, prefix="prompt_"):
    return segment_of(arrays, prefix)


def official_model(name, config=CONFIG):
    """Build `backbone`, `expert0` .. `expert2` (backbone and one expert) or `moe`, in eval mode."""
    model = PromptDT(config)
    model.load_state_dict(backbone_from_official(part("backbone/")))
    if name == "backbone":
        return model.eval()
    numbers = range(3) if name == "moe" else [int(name[-1])]
    add_mixtures(model, len(numbers), routed=name == "moe")
    for i, mixture in enumerate(model.mixtures):
        for e, number in enumerate(numbers):
            block = part(f"expert_{number}/block_{i}/")
            mixture.experts.load_expert(e, expert_from_official(block))
        if name == "moe":
            router = part(f"moe/block_{i}/router.")
            mixture.router.load_state_dict(router_from_official(router))
    return model.eval()
