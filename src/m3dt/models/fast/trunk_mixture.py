"""Run big experts after a cached prefix.

Letters: B batch, L tokens, R tokens that are read out, C cached tokens, D embedding width,
E experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from m3dt.config import ComputeConfig
from m3dt.data.batch import ExpertParts
from m3dt.models.fast.prompts import KeyValues
from m3dt.models.fast.transformer import run_transformer
from m3dt.models.routing import Selection
from m3dt.models.variants.big_experts import TrunkMixture


def run_big_experts(
    mixture: TrunkMixture, hidden: Tensor, x: Tensor, valid: Tensor, compute: ComputeConfig,
    cache: KeyValues | None, cache_valid: Tensor | None, read: slice,
    selection: Selection | None = None,
) -> tuple[Tensor, KeyValues]:  # fmt: skip
    """Return what big experts add to `hidden`, and their keys and values in turn.

    Args:
        mixture: The experts, and their router if they have one.
        hidden: The backbone's last hidden state, which the router reads, (B, R, D).
        x: Embedded tokens, (B, L, D).
        valid: (B, L) of bool.
        compute: As for `run_transformer`.
        cache: Keys and values of a prefix for every expert in turn, E times as many as one has;
            with a selection, of each row's own expert.
        cache_valid: (B, C) of bool.
        read: Positions whose result is wanted.
        selection: The expert of each row, one each, instead of a router.
    """
    E, experts = mixture.num_experts, mixture.experts

    def run(e: int, x: Tensor, valid: Tensor, own: KeyValues | None) -> tuple[Tensor, KeyValues]:
        return run_transformer(experts.trunk(e), x, valid, compute, own, cache_valid, read)

    if selection is not None:
        numbers, _ = selection.of(0)
        assert numbers is not None and numbers.shape[1] == 1, "of big experts, one serves a row"
        return _choose(lambda e: run(e, x, valid, cache), E, numbers[:, 0])
    if mixture.router is None and E > 1:  # stage 2: equal parts of the batch, no prefix
        parts = ExpertParts(E)
        rows, masks = parts.split(x), parts.split(valid)
        order = experts.in_turn(x.device)
        return parts.merge([run(e, rows[e], masks[e], None)[0] for e in order]), []
    outputs, key_values = [], []
    for e in experts.in_turn(x.device):
        own = None if cache is None else cache[e * len(cache) // E : (e + 1) * len(cache) // E]
        y, kv = run(e, x, valid, own)
        outputs.append(y)
        key_values += kv
    if mixture.router is None:
        return outputs[0], key_values
    gate_weights = mixture.router(hidden)  # (B, R, E)
    return torch.einsum("ebrd,bre->brd", torch.stack(outputs), gate_weights), key_values


def _choose(
    run: Callable[[int], tuple[Tensor, KeyValues]], num_experts: int, expert: Tensor
) -> tuple[Tensor, KeyValues]:
    """Run experts on all rows, and keep each row's output, keys and values of its own expert.

    A CPU leaves out experts that no row has. Elsewhere all run: to look would wait for the device.
    """
    needed = expert.unique().tolist() if expert.device.type == "cpu" else range(num_experts)
    first, *others = needed
    output, key_values = run(first)
    for e in others:
        y, kv = run(e)
        own = (expert == e)[:, None, None]  # (B, 1, 1)
        output = torch.where(own, y, output)
        key_values = [
            (torch.where(own[..., None], k, k_kept), torch.where(own[..., None], v, v_kept))
            for (k, v), (k_kept, v_kept) in zip(kv, key_values, strict=True)
        ]
    return output, key_values
