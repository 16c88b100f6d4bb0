"""Run all experts of a block: as batched products, in turn, or as one wide network.

Letters: B batch, L tokens, D embedding width, E experts; `tokens` counts rows of flattened tokens.
"""

import torch
from torch import Tensor

from m3dt.config import ComputeConfig
from m3dt.data.batch import ExpertParts
from m3dt.models.fast.chosen_experts import run_chosen
from m3dt.models.fast.dropout import drop, drop_alike
from m3dt.models.fast.frozen_experts import MixFrozenExperts
from m3dt.models.fast.wide_experts import mix_wide, wide_weights
from m3dt.models.plain import ExpertBank, Mixture, PromptDT


def run_mixture(
    mixture: Mixture,
    x: Tensor,
    compute: ComputeConfig,
    chosen: tuple[Tensor | None, Tensor] | None = None,
) -> Tensor:
    """Return what a block's experts add: (B, L, D) -> (B, L, D).

    It is as in `Mixture.forward`, unless each row has chosen experts with weights, (B, K) each, or
    all have weights, (B, E).
    """
    experts = mixture.experts
    assert isinstance(experts, ExpertBank)
    if chosen is not None:
        numbers, weights = chosen
        if numbers is None:
            gates = weights[:, None].expand(-1, x.shape[1], -1).flatten(0, 1)  # (B * L, E)
            return mix(experts, x.flatten(0, 1), gates, compute).view_as(x)
        return run_chosen(experts, x, numbers, weights)
    if mixture.router is None:
        parts = ExpertParts(mixture.num_experts).split(x).flatten(1, 2)  # (E, B / E * L, D)
        return drop_alike(experts.dropout, run_experts(experts, parts)).view_as(x)
    gate_weights = mixture.router(x).flatten(0, 1)  # (B * L, E)
    mixed = mix(experts, x.flatten(0, 1), gate_weights, compute)
    return drop(experts.dropout, mixed).view_as(x)


def run_experts(experts: ExpertBank, x: Tensor) -> Tensor:
    """Apply expert e to its own tokens x[e], without dropout: (E, tokens, D) -> (E, tokens, D)."""
    h = torch.baddbmm(experts.c_fc_bias[:, None], x, experts.c_fc_weight).relu_()
    return torch.baddbmm(experts.c_proj_bias[:, None], h, experts.c_proj_weight)


def mix(experts: ExpertBank, x: Tensor, gate_weights: Tensor, compute: ComputeConfig) -> Tensor:
    """Weigh what all experts make of all tokens: (tokens, D), (tokens, E) -> (tokens, D)."""
    way = _way_to_mix(experts, x, compute)
    if way == "together":
        outputs = run_experts(experts, x.expand(experts.num_experts, -1, -1))  # (E, tokens, D)
        return torch.einsum("emd,me->md", outputs, gate_weights)
    x, gate_weights = x.to(_product_dtype(x)), gate_weights.float()
    if way == "wide":
        return mix_wide(experts, x, gate_weights)
    fc = (experts.c_fc_weight, experts.c_fc_bias)
    proj = (experts.c_proj_weight, experts.c_proj_bias)
    return MixFrozenExperts.apply(x, gate_weights, *fc, *proj)


def prepare(model: PromptDT, compute: ComputeConfig) -> None:
    """Put frozen experts side by side for the precision in force, if they run as a wide network.

    Without `torch.compile` this happens by itself (`wide_weights`).
    """
    for mixture in model.mixtures:
        experts = mixture.experts
        if mixture.router is None or not isinstance(experts, ExpertBank):
            continue
        weight = experts.c_fc_weight
        if _way_to_mix(experts, weight, compute) == "wide":
            wide_weights(experts, _product_dtype(weight))


def _way_to_mix(experts: ExpertBank, x: Tensor, compute: ComputeConfig) -> str:
    """Choose how to mix: a CPU's caches gain by experts in turn, a GPU would wait.

    Only experts that do not train can run in turn.
    """
    way = compute.experts
    if way == "auto":
        way = "in_turn" if x.device.type == "cpu" else "wide"
    trains = torch.is_grad_enabled() and any(p.requires_grad for p in experts.parameters())
    return "together" if way == "in_turn" and trains else way


def _product_dtype(x: Tensor) -> torch.dtype:
    """Return the precision of products: that of autocast where it is on.

    While `torch.compile` traces, the device is one that has autocast: torch 2.11 cannot trace the
    question, and would compile what follows apart, for each block anew.
    """
    kind = x.device.type
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(kind)
    if available and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype
