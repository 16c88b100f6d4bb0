"""Experts as batched weights, the router, and their mixture (paper section 4, equations 3 to 5).

Letters: B batch, L tokens, M tokens of one expert, D embedding, F = 4D, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3dt.config import ModelConfig
from m3dt.models.dropout import dropout_mask
from m3dt.models.transformer import init_gpt2


class ExpertBank(nn.Module):
    """E feed-forward networks D -> 4D -> D, held as one tensor a weight.

    While training, each expert drops units by its own generator (`reseed`), so that what one
    expert sees does not depend on which others are in the bank.
    """

    def __init__(self, config: ModelConfig, num_experts: int) -> None:
        super().__init__()
        E, D = num_experts, config.n_embd
        self.dropout = config.dropout
        self.c_fc_weight = nn.Parameter(torch.empty(E, D, 4 * D).normal_(std=0.02))
        self.c_fc_bias = nn.Parameter(torch.zeros(E, 4 * D))
        self.c_proj_weight = nn.Parameter(torch.empty(E, 4 * D, D).normal_(std=0.02))
        self.c_proj_bias = nn.Parameter(torch.zeros(E, D))
        self.generators: list[torch.Generator] = []

    def reset(self, seeds: Sequence[int]) -> None:
        """Draw each expert's weights from its own seed, E of them."""
        for e, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for weight in (self.c_fc_weight, self.c_proj_weight):
                fresh = torch.empty(weight.shape[1:]).normal_(std=0.02, generator=generator)
                weight.data[e] = fresh.to(weight.device)
        nn.init.zeros_(self.c_fc_bias)
        nn.init.zeros_(self.c_proj_bias)

    def reseed(self, seeds: Sequence[int]) -> None:
        """Start each expert's dropout from its own seed, E of them."""
        device = self.c_fc_weight.device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def forward(self, x: Tensor) -> Tensor:
        """Apply expert e to its own tokens x[e]: (E, M, D) -> (E, M, D)."""
        h = F.relu(torch.baddbmm(self.c_fc_bias[:, None], x, self.c_fc_weight))  # (E, M, F)
        y = torch.baddbmm(self.c_proj_bias[:, None], h, self.c_proj_weight)  # (E, M, D)
        if not self.training or self.dropout == 0:
            return y
        masks = [
            dropout_mask(part, self.dropout, generator)
            for part, generator in zip(y, self.generators, strict=True)
        ]
        return y * torch.stack(masks)


class Router(nn.Module):
    """Weighs the experts for each token: D -> 4D -> 4D -> 4D -> 2D -> E, dense softmax."""

    def __init__(self, config: ModelConfig, num_experts: int) -> None:
        super().__init__()
        D = config.n_embd
        widths = (D, 4 * D, 4 * D, 4 * D, 2 * D, num_experts)
        self.layers = nn.ModuleList(
            nn.Linear(i, o) for i, o in zip(widths[:-1], widths[1:], strict=True)
        )
        self.apply(init_gpt2)

    def forward(self, x: Tensor) -> Tensor:
        """Return gate weights that sum to 1 over the experts: (..., D) -> (..., E)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x).softmax(dim=-1)


class Mixture(nn.Module):
    """What the experts of one block add to it, weighed by a router or by assignment.

    Without a router, the batch is taken as E equal parts, the e-th for expert e (stage 2); a bank
    of one expert then serves the whole batch.
    """

    def __init__(self, config: ModelConfig, num_experts: int, routed: bool) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.experts = ExpertBank(config, num_experts)
        self.router = Router(config, num_experts) if routed else None

    def forward(self, x: Tensor) -> Tensor:
        if self.router is None:
            parts = x.unflatten(0, (self.num_experts, -1)).flatten(1, 2)  # (E, B / E * L, D)
            return self.experts(parts).view_as(x)
        gate_weights = self.router(x).flatten(0, 1)  # (B * L, E)
        tokens = x.flatten(0, 1)  # (B * L, D)
        outputs = self.experts(tokens.expand(self.num_experts, -1, -1))  # (E, B * L, D)
        return torch.einsum("emd,me->md", outputs, gate_weights).view_as(x)
