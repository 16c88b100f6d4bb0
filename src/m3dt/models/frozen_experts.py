"""The weighted sum of experts that do not train, with less memory traffic than autograd's.

Autograd would keep each expert's hidden units, 4 bytes each, and stream them all through memory
several times. Here one expert is finished at a time while its units are in the cache; kept are its
output, which the gates' gradient needs, and one byte a unit for the ReLU's.

Letters: E experts, M tokens, D embedding, F hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class MixFrozenExperts(torch.autograd.Function):
    """Compute sum_e g_e (relu(x W1_e + b1_e) W2_e + b2_e), equation 4.

    Differentiable in x and the gates alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gates: Tensor, *weights: Tensor) -> Tensor:
        """Mix the experts' outputs.

        Args:
            ctx: Autograd's context.
            x: Tokens, (M, D), in the precision of the products.
            gates: (M, E), float32.
            weights: W1 (E, D, F), b1 (E, F), W2 (E, F, D), b2 (E, D), as precise as x.

        Returns:
            (M, D) in float32.
        """
        w1, b1, w2, b2 = weights
        mixed = torch.zeros(x.shape, device=x.device)
        wanted = any(ctx.needs_input_grad[:2])
        outputs, active = [], []
        for e in range(len(w1)):
            h = torch.addmm(b1[e], x, w1[e]).relu_()  # (M, F)
            y = torch.addmm(b2[e], h, w2[e])  # (M, D)
            mixed.addcmul_(y.float(), gates[:, e : e + 1])
            if wanted:
                outputs.append(y)
                active.append(h.to(torch.bool))
        ctx.save_for_backward(gates, w1, w2, *outputs, *active)
        return mixed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, where it is wanted, and of the gates."""
        gates, w1, w2, *kept = ctx.saved_tensors
        E = len(w1)
        gates_grad = torch.stack([(y * grad).sum(dim=1) for y in kept[:E]], dim=1)  # (M, E)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = torch.zeros_like(grad)
            for e, active in enumerate(kept[E:]):
                h_grad = (grad * gates[:, e : e + 1]).to(w2.dtype) @ w2[e].T  # (M, F)
                h_grad.mul_(active.to(h_grad.dtype))
                _add_product(x_grad, h_grad, w1[e].T)
        return x_grad, gates_grad, None, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a b to a float32 tensor, in one pass where the product is in float32 too."""
    if a.dtype == total.dtype:
        torch.addmm(total, a, b, out=total)
    else:
        total.add_(a @ b)
