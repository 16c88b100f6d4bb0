"""Run the experts that were chosen for each row, where a router would weigh all of them.

This is for acting: nothing is dropped. Letters: B batch, L tokens, D embedding width, K experts of
a row.
"""

import torch
from torch import Tensor

from m3dt.models.plain import ExpertBank


def run_chosen(experts: ExpertBank, x: Tensor, numbers: Tensor, weights: Tensor) -> Tensor:
    """Apply to each row its own experts.

    Args:
        experts: The bank.
        x: (B, L, D).
        numbers: Of each row's experts, (B, K) of int64.
        weights: Of their outputs, (B, K); an expert of weight 0 does not count.

    Returns:
        (B, L, D).
    """
    assert not experts.training, "chosen experts are for acting"
    run = run_row_by_row if x.device.type == "cpu" else run_gathered
    return run(experts, x, numbers, weights)


def run_row_by_row(experts: ExpertBank, x: Tensor, numbers: Tensor, weights: Tensor) -> Tensor:
    """Run each row alone, so that its rounding does not depend on the other rows' experts."""
    outputs = []
    for row, own, shares in zip(x, numbers.tolist(), weights.tolist(), strict=True):
        parts = []
        for e, share in zip(own, shares, strict=True):
            if share == 0:
                continue
            h = torch.addmm(experts.c_fc_bias[e], row, experts.c_fc_weight[e]).relu_()
            y = torch.addmm(experts.c_proj_bias[e], h, experts.c_proj_weight[e])
            parts.append(y if share == 1 else y * share)
        outputs.append(parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0))
    return torch.stack(outputs)


def run_gathered(experts: ExpertBank, x: Tensor, numbers: Tensor, weights: Tensor) -> Tensor:
    """Copy each row's weights together and run one batched product; the host reads nothing."""
    K, each = numbers.shape[1], numbers.flatten()  # (B * K,)
    repeated = x.repeat_interleave(K, dim=0)  # (B * K, L, D)
    h = torch.baddbmm(experts.c_fc_bias[each, None], repeated, experts.c_fc_weight[each]).relu_()
    y = torch.baddbmm(experts.c_proj_bias[each, None], h, experts.c_proj_weight[each])
    return (y.unflatten(0, (-1, K)) * weights[..., None, None].to(y.dtype)).sum(dim=1)
