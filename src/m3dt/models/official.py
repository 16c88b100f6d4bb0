"""Parameter names and layouts of the authors' checkpoints, and their translation into ours.

Their feed-forward and attention weights are GPT-2 `Conv1D`s, stored (in, out); ours are
`nn.Linear`s, stored (out, in), except for experts, stored (in, out).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_BACKBONE_NAMES = {
    "embed_timestep.": "embed.timestep.",
    "embed_return.": "embed.returns_to_go.",
    "embed_state.": "embed.state.",
    "embed_action.": "embed.action.",
    "predict_action.0.": "predict_action.",
}
_CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_ROUTER_LAYERS = ("fc1", "fc2", "fc_new", "fc3", "fc4")


_TOKENS = 1024  # length of the causal mask in their files


def _their_name(ours: str) -> str:
    for theirs, name in _BACKBONE_NAMES.items():
        if ours.removeprefix("prompt_").startswith(name):
            return ours.replace(name, theirs)
    return ours


def backbone_from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the authors' backbone; their causal-mask buffers are left out."""
    translated = {}
    for key, value in state.items():
        if key.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        name = key
        for theirs, ours in _BACKBONE_NAMES.items():
            if key.removeprefix("prompt_").startswith(theirs):
                name = key.replace(theirs, ours)
        matrix = key.endswith(_CONV1D) and isinstance(value, Tensor) and value.ndim == 2
        translated[name] = value.T.contiguous() if matrix else value
    return translated


def backbone_to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate our backbone, or anything with its names such as gradients, into theirs."""
    return {
        _their_name(name): (value.T if name.endswith(_CONV1D) else value).contiguous()
        for name, value in state.items()
    }


def causal_buffers(n_layer: int) -> dict[str, Tensor]:
    """Return the buffers that their loader expects in a backbone's file."""
    causal = torch.ones(_TOKENS, _TOKENS, dtype=torch.uint8).tril()[None, None]
    buffers = {}
    for i in range(n_layer):
        buffers[f"transformer.h.{i}.attn.bias"] = causal
        buffers[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    return buffers


def expert_from_official(block: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one block of an expert: `c_fc.weight` to `c_fc_weight`, and so on."""
    return {name.replace(".", "_"): tensor for name, tensor in block.items()}


def expert_to_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one block of an expert into theirs."""
    return {
        f"{part}.{kind}": weights[f"{part}_{kind}"]
        for part in ("c_fc", "c_proj")
        for kind in ("weight", "bias")
    }


def router_from_official(router: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one block's router: `fc1.weight` to `layers.0.weight`, and so on."""
    return {
        f"layers.{i}.{kind}": router[f"{layer}.{kind}"]
        for i, layer in enumerate(_ROUTER_LAYERS)
        for kind in ("weight", "bias")
    }


def router_to_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one block's router into theirs."""
    return {
        f"{layer}.{kind}": weights[f"layers.{i}.{kind}"]
        for i, layer in enumerate(_ROUTER_LAYERS)
        for kind in ("weight", "bias")
    }


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what stands under a prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
