"""Reads the recorded data in tests/data and builds the models it was recorded from."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from m3dt.config import ModelConfig
from m3dt.data import Segment
from m3dt.models import PromptDT
from m3dt.models.official import backbone_from_official, mixture_from_official

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
    if name == "moe":
        model.add_mixtures(3, routed=True)
    elif name != "backbone":
        model.add_mixtures(1, routed=False)
    for i, mixture in enumerate(model.mixtures):
        if name == "moe":
            block = part(f"moe/block_{i}/")
            names = range(3)
            experts = (
                [
                    {
                        k.removeprefix(f"experts.{j}."): v
                        for k, v in block.items()
                        if k.startswith(f"experts.{j}.")
                    }
                    for j in names
                ]
                if any(k.startswith("experts.") for k in block)
                else [part(f"expert_{j}/block_{i}/") for j in names]
            )
            router = {k.removeprefix("router."): v for k, v in block.items() if "router." in k}
        else:
            experts = [part(f"expert_{name[-1]}/block_{i}/")]
            router = None
        mixture.load_state_dict(mixture_from_official(experts, router))
    return model.eval()
