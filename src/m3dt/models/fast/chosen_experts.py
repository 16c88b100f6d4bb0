"""Run the expert that was chosen for each row, where a router would weigh all of them.

This is for acting: nothing is dropped. Letters: B batch, L tokens, D embedding width.
"""

import torch
from torch import Tensor

from m3dt.models.plain import ExpertBank


def run_chosen(experts: ExpertBank, x: Tensor, expert: Tensor) -> Tensor:
    """Apply to each row its own expert.

    Args:
        experts: The bank.
        x: (B, L, D).
        expert: Number of each row's expert, (B,) of int64.

    Returns:
        (B, L, D).
    """
    assert not experts.training, "chosen experts are for acting"
    run = run_row_by_row if x.device.type == "cpu" else run_gathered
    return run(experts, x, expert)


def run_row_by_row(experts: ExpertBank, x: Tensor, expert: Tensor) -> Tensor:
    """Run each row alone, so that its rounding does not depend on the other rows' experts."""
    outputs = []
    for row, e in zip(x, expert.tolist(), strict=True):
        h = torch.addmm(experts.c_fc_bias[e], row, experts.c_fc_weight[e]).relu_()
        outputs.append(torch.addmm(experts.c_proj_bias[e], h, experts.c_proj_weight[e]))
    return torch.stack(outputs)


def run_gathered(experts: ExpertBank, x: Tensor, expert: Tensor) -> Tensor:
    """Copy each row's weights together and run one batched product; the host reads nothing."""
    h = torch.baddbmm(experts.c_fc_bias[expert, None], x, experts.c_fc_weight[expert]).relu_()
    return torch.baddbmm(experts.c_proj_bias[expert, None], h, experts.c_proj_weight[expert])
