"""Handle experts one by one: their weights, seeds, gradients; whatever networks they are.

Letters: E experts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Bank(nn.Module):
    """E experts that train independently of each other."""

    num_experts: int

    @abstractmethod
    def reset(self, seeds: Sequence[int]) -> None:
        """Draw each expert's weights from N(0, 0.02) by its own seed, E of them."""

    @abstractmethod
    def reseed(self, seeds: Sequence[int]) -> None:
        """Start each expert's dropout from its own seed, E of them."""

    @abstractmethod
    def weights_of(self, expert: int) -> dict[str, Tensor]:
        """Return one expert's tensors by name."""

    @abstractmethod
    def load_expert(self, expert: int, weights: Mapping[str, Tensor]) -> None:
        """Copy one expert's tensors, as `weights_of` returns them, into the bank."""

    @abstractmethod
    def squared_gradient_norms(self) -> Tensor:
        """Return the squared norm of each expert's gradient, (E,)."""

    @abstractmethod
    def scale_gradients(self, factors: Tensor) -> None:
        """Multiply each expert's gradient by its own factor, (E,)."""


class StackedExperts(Bank):
    """Experts whose weights are stacked: every parameter has a first axis of E.

    Attributes:
        generators: Each expert's source of dropout, E of them once `reseed` was called.
    """

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.generators: list[torch.Generator] = []

    def reset(self, seeds: Sequence[int]) -> None:
        for e, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for name, parameter in self.named_parameters():
                if name.endswith("_weight"):
                    fresh = torch.empty(parameter.shape[1:])
                    fresh.normal_(std=0.02, generator=generator)
                    parameter.data[e] = fresh.to(parameter.device)
                else:
                    parameter.data[e] = 0.0

    def reseed(self, seeds: Sequence[int]) -> None:
        device = next(self.parameters()).device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def weights_of(self, expert: int) -> dict[str, Tensor]:
        return {name: tensor[expert] for name, tensor in self.state_dict().items()}

    @torch.no_grad()
    def load_expert(self, expert: int, weights: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            tensor[expert].copy_(weights[name])

    def squared_gradient_norms(self) -> Tensor:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        return torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients]).sum(dim=0)

    def scale_gradients(self, factors: Tensor) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factors.view(-1, *[1] * (parameter.ndim - 1)))
