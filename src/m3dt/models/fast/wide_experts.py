"""The weighted sum of all experts of a block as one wide feed-forward network.

With the experts' weights side by side, equation 4 is two products:

    sum_e g_e (relu(x W1_e + b1_e) W2_e + b2_e) = (relu(x W1 + b1) * g) W2 + g b2

Each gate weight multiplies all hidden units of its expert, and no output of a single expert exists.
This suits a GPU. On a CPU, experts in turn are faster (`frozen_experts.py`).

Letters: D embedding width, E experts; `tokens` and `hidden` count tokens and hidden units.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from m3dt.models.plain import ExpertBank


class WideWeights(NamedTuple):
    """The weights of E experts, side by side."""

    fc: Tensor  # W1, (D, E * hidden)
    fc_bias: Tensor  # b1, (E * hidden,)
    proj: Tensor  # W2, (E * hidden, D)
    proj_bias: Tensor  # b2, (E, D)


class Kept(NamedTuple):
    """Frozen weights side by side, and the state of the parameters that they were made of."""

    weights: WideWeights
    state: tuple[tuple[int, int], ...]


def mix_wide(experts: ExpertBank, x: Tensor, gates: Tensor) -> Tensor:
    """Mix the experts' outputs.

    Args:
        experts: Frozen or not.
        x: Tokens, (tokens, D), in the precision of the products.
        gates: (tokens, E), float32.

    Returns:
        (tokens, D) in the precision of the products.
    """
    fc, fc_bias, proj, proj_bias = wide_weights(experts, x.dtype)
    h = torch.addmm(fc_bias, x, fc).relu_()  # (tokens, E * hidden)
    gates = gates.to(x.dtype)
    weighted = h.unflatten(1, (experts.num_experts, -1)) * gates[:, :, None]
    return torch.addmm(gates @ proj_bias, weighted.flatten(1), proj)


def wide_weights(experts: ExpertBank, dtype: torch.dtype) -> WideWeights:
    """Return the experts' weights side by side in a precision.

    Those of frozen experts are kept on the bank, one copy per precision (`Bank.kept`). A copy is
    written anew, in place, when a parameter has been written or moved: graphs that read it then
    read the new weights. Only writes through `.data` go unnoticed.

    While `torch.compile` traces, kept weights are taken as they are, because a graph cannot ask
    whether parameters were written; without any, the graph itself puts the weights side by side, at
    each run. So call `fast.prepare` before the tracing, and again after frozen weights have
    changed.
    """
    if any(p.requires_grad for p in experts.parameters()):
        return _side_by_side(experts, dtype)
    if torch.compiler.is_compiling():
        found = experts.kept.get(dtype)
        return _side_by_side(experts, dtype) if found is None else found.weights
    if any(p.is_inference() for p in experts.parameters()):  # they do not count their writes
        return _side_by_side(experts, dtype)
    return _keep(experts, dtype)


def _keep(experts: ExpertBank, dtype: torch.dtype) -> WideWeights:
    """Return the kept weights, up to date."""
    kept: Kept | None = experts.kept.get(dtype)
    state = tuple((p.data_ptr(), p._version) for p in experts.parameters())
    if kept is not None and kept.state == state:
        return kept.weights
    # Training must be able to use what an evaluation has made.
    with torch.inference_mode(False), torch.no_grad():
        weights = _side_by_side(experts, dtype)
        if kept is not None and kept.weights.fc.device == weights.fc.device:
            for own, new in zip(kept.weights, weights, strict=True):
                if own.data_ptr() != new.data_ptr():  # some are views of parameters in float32
                    own.copy_(new)
            weights = kept.weights
    experts.kept[dtype] = Kept(weights, state)
    return weights


def _side_by_side(experts: ExpertBank, dtype: torch.dtype) -> WideWeights:
    fc = experts.c_fc_weight.to(dtype).transpose(0, 1).flatten(1)
    proj = experts.c_proj_weight.to(dtype).flatten(0, 1)
    fc_bias = experts.c_fc_bias.to(dtype).flatten()
    return WideWeights(fc, fc_bias, proj, experts.c_proj_bias.to(dtype))
