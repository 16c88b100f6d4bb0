"""Parameter names and layouts of the authors' checkpoints, and their translation into ours.

Their feed-forward and attention weights are GPT-2 `Conv1D`s, stored (in, out); ours are
`nn.Linear`s, stored (out, in), except for experts, stored (in, out).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

# Our names and theirs.
_BACKBONE = {
    "embed.timestep.": "embed_timestep.",
    "embed.returns_to_go.": "embed_return.",
    "embed.state.": "embed_state.",
    "embed.action.": "embed_action.",
    "predict_action.": "predict_action.0.",
}
_EXPERT = {f"{p}_{kind}": f"{p}.{kind}" for p in ("c_fc", "c_proj") for kind in ("weight", "bias")}
_ROUTER = {
    f"layers.{i}.{kind}": f"{layer}.{kind}"
    for i, layer in enumerate(("fc1", "fc2", "fc_new", "fc3", "fc4"))
    for kind in ("weight", "bias")
}
_CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_TOKENS = 1024  # length of the causal mask in their files


def backbone_from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the authors' backbone; their causal-mask buffers are left out."""
    ours_by_theirs = {theirs: ours for ours, theirs in _BACKBONE.items()}
    translated = {}
    for name, value in state.items():
        if not name.endswith((".attn.bias", ".attn.masked_bias")):
            matrix = name.endswith(_CONV1D) and isinstance(value, Tensor) and value.ndim == 2
            value = value.T.contiguous() if matrix else value
            translated[_renamed(name, ours_by_theirs)] = value
    return translated


def backbone_to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate our backbone, or anything with its names such as gradients, into theirs."""
    return {
        _renamed(name, _BACKBONE): (value.T if name.endswith(_CONV1D) else value).contiguous()
        for name, value in state.items()
    }


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for before, after in names.items():
        if name.removeprefix("prompt_").startswith(before):
            return name.replace(before, after)
    return name


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
    return {theirs: weights[ours] for ours, theirs in _EXPERT.items()}


def router_from_official(router: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one block's router: `fc1.weight` to `layers.0.weight`, and so on."""
    return {ours: router[theirs] for ours, theirs in _ROUTER.items()}


def router_to_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one block's router into theirs."""
    return {theirs: weights[ours] for ours, theirs in _ROUTER.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
