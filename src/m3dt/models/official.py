"""Parameter names and layouts of the authors' checkpoints, and their translation into ours.

Their feed-forward and attention weights are GPT-2 `Conv1D`s, stored (in, out); ours are
`nn.Linear`s, stored (out, in), except for expert banks, stored (E, in, out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        translated[name] = value.T if key.endswith(_CONV1D) else value
    return translated


def mixture_from_official(
    experts: Sequence[Mapping[str, Tensor]], router: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Translate one block's experts (`c_fc.weight`, ...) and router (`fc1.weight`, ...)."""
    translated = {
        f"experts.{part}_{kind}": torch.stack([expert[f"{part}.{kind}"] for expert in experts])
        for part in ("c_fc", "c_proj")
        for kind in ("weight", "bias")
    }
    if router is not None:
        for i, layer in enumerate(_ROUTER_LAYERS):
            for kind in ("weight", "bias"):
                translated[f"router.layers.{i}.{kind}"] = router[f"{layer}.{kind}"]
    return translated
