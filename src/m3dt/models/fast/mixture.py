"""Run all experts of a block at once, or frozen ones in turn with little memory traffic.

Letters: B batch, L tokens, D embedding width, E experts; `tokens` counts rows of flattened tokens.
"""

import torch
from torch import Tensor

from m3dt.config import ComputeConfig
from m3dt.data.batch import ExpertParts
from m3dt.models.fast.chosen_experts import run_chosen
from m3dt.models.fast.dropout import dropout_mask
from m3dt.models.fast.frozen_experts import MixFrozenExperts
from m3dt.models.plain import ExpertBank, Mixture


def run_mixture(
    mixture: Mixture, x: Tensor, compute: ComputeConfig, expert: Tensor | None = None
) -> Tensor:
    """Return what a block's experts add: (B, L, D) -> (B, L, D).

    It is as in `Mixture.forward`, unless `expert` names one per row, (B,) of int64.
    """
    experts = mixture.experts
    assert isinstance(experts, ExpertBank)
    if expert is not None:
        return run_chosen(experts, x, expert)
    if mixture.router is None:
        parts = ExpertParts(mixture.num_experts).split(x).flatten(1, 2)  # (E, B / E * L, D)
        return run_experts(experts, parts).view_as(x)
    gate_weights = mixture.router(x).flatten(0, 1)  # (B * L, E)
    return mix(experts, x.flatten(0, 1), gate_weights, compute).view_as(x)


def run_experts(experts: ExpertBank, x: Tensor) -> Tensor:
    """Apply expert e to its own tokens x[e]: (E, tokens, D) -> (E, tokens, D)."""
    h = torch.baddbmm(experts.c_fc_bias[:, None], x, experts.c_fc_weight).relu_()
    y = torch.baddbmm(experts.c_proj_bias[:, None], h, experts.c_proj_weight)
    if not experts.training or experts.dropout == 0:
        return y
    masks = [
        dropout_mask(part, experts.dropout, generator)
        for part, generator in zip(y, experts.generators, strict=True)
    ]
    return y * torch.stack(masks)


def mix(experts: ExpertBank, x: Tensor, gate_weights: Tensor, compute: ComputeConfig) -> Tensor:
    """Weigh what all experts make of all tokens: (tokens, D), (tokens, E) -> (tokens, D)."""
    if _mixes_in_turn(experts, x, compute):
        kind = x.device.type
        lower = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if lower else x.dtype
        fc = (experts.c_fc_weight, experts.c_fc_bias)
        proj = (experts.c_proj_weight, experts.c_proj_bias)
        with torch.autocast(kind, enabled=False):
            return MixFrozenExperts.apply(x.to(dtype), gate_weights.float(), *fc, *proj)
    outputs = run_experts(experts, x.expand(experts.num_experts, -1, -1))  # (E, tokens, D)
    return torch.einsum("emd,me->md", outputs, gate_weights)


def _mixes_in_turn(experts: ExpertBank, x: Tensor, compute: ComputeConfig) -> bool:
    """Tell whether to run one expert after the other: a CPU's caches gain, a GPU would wait.

    Only experts that neither train nor drop units can run in turn.
    """
    frozen = not any(p.requires_grad for p in experts.parameters()) or not torch.is_grad_enabled()
    dropping = experts.training and experts.dropout > 0
    in_turn = x.device.type == "cpu" if compute.experts == "auto" else compute.experts == "in_turn"
    return in_turn and frozen and not dropping
