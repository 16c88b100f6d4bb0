"""Handle the experts of a bank one by one: their weights, seeds and gradients.

Letters: E experts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Bank(nn.Module):
    """E experts that train independently of each other.

    Every parameter has a first axis of E; a bank that stores them otherwise overrides all methods.

    Attributes:
        dropout: The experts' dropout, which takes the same units from all of them.
        kept: Frozen weights in another form, by precision; shortcuts keep them and their validity.
    """

    def __init__(self, num_experts: int, dropout: float) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.dropout = nn.Dropout(dropout)
        self.kept: dict[torch.dtype, Any] = {}

    @property
    def drops(self) -> bool:
        """Whether the experts drop units now."""
        return self.dropout.training and self.dropout.p > 0

    @torch.no_grad()
    def reset(self, seeds: Sequence[int]) -> None:
        """Draw each expert's weights from N(0, 0.02) by its own seed, and zero the biases."""
        for e, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for name, parameter in self.named_parameters():
                if name.endswith("_weight"):
                    fresh = torch.empty(parameter.shape[1:], dtype=parameter.dtype)
                    fresh.normal_(std=0.02, generator=generator)
                    parameter[e] = fresh.to(parameter.device)
                else:
                    parameter[e] = 0.0

    def weights_of(self, expert: int) -> dict[str, Tensor]:
        """Return one expert's tensors by name."""
        return {name: tensor[expert] for name, tensor in self.state_dict().items()}

    @torch.no_grad()
    def load_expert(self, expert: int, weights: Mapping[str, Tensor]) -> None:
        """Copy one expert's tensors, as `weights_of` returns them, into the bank."""
        for name, tensor in self.state_dict().items():
            tensor[expert].copy_(weights[name])

    def squared_gradient_norms(self) -> Tensor:
        """Return the squared norm of each expert's gradient, (E,)."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        return torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients]).sum(dim=0)

    def scale_gradients(self, factors: Tensor) -> None:
        """Multiply each expert's gradient by its own factor, (E,)."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factors.view(-1, *[1] * (parameter.ndim - 1)))
