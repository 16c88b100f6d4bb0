"""Experts as batched weights, the router, and their mixture (paper section 4, equations 3 to 5).

Letters: B batch, L tokens, M tokens of one expert, D embedding, F hidden width, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3dt.config import ComputeConfig, ModelConfig
from m3dt.models.dropout import dropout_mask
from m3dt.models.frozen_experts import MixFrozenExperts
from m3dt.models.transformer import init_gpt2


class ExpertBank(nn.Module):
    """E feed-forward networks D -> F -> D, held as one tensor a weight.

    While training, each expert drops units by its own generator (`reseed`), so that what one
    expert sees does not depend on which others are in the bank.
    """

    def __init__(self, config: ModelConfig, num_experts: int) -> None:
        super().__init__()
        E, D, width = num_experts, config.n_embd, config.mlp_width or 4 * config.n_embd
        self.num_experts = E
        self.dropout = config.dropout
        self.compute = ComputeConfig()
        self.c_fc_weight = nn.Parameter(torch.empty(E, D, width).normal_(std=0.02))
        self.c_fc_bias = nn.Parameter(torch.zeros(E, width))
        self.c_proj_weight = nn.Parameter(torch.empty(E, width, D).normal_(std=0.02))
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

    def squared_gradient_norms(self) -> Tensor:
        """Return the squared norm of each expert's gradient, (E,)."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        return torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients]).sum(dim=0)

    def scale_gradients(self, factors: Tensor) -> None:
        """Multiply each expert's gradient by its own factor, (E,)."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factors.view(-1, *[1] * (parameter.ndim - 1)))

    def weights_of(self, expert: int) -> dict[str, Tensor]:
        """Return one expert's tensors by name."""
        return {name: tensor[expert] for name, tensor in self.state_dict().items()}

    @torch.no_grad()
    def load_expert(self, expert: int, weights: Mapping[str, Tensor]) -> None:
        """Copy one expert's tensors, as `weights_of` gives them, into the bank."""
        for name, tensor in self.state_dict().items():
            tensor[expert].copy_(weights[name])

    def forward(self, x: Tensor) -> Tensor:
        """Apply expert e to its own tokens x[e]: (E, M, D) -> (E, M, D)."""
        h = torch.baddbmm(self.c_fc_bias[:, None], x, self.c_fc_weight).relu_()  # (E, M, F)
        y = torch.baddbmm(self.c_proj_bias[:, None], h, self.c_proj_weight)  # (E, M, D)
        if not self.training or self.dropout == 0:
            return y
        masks = [
            dropout_mask(part, self.dropout, generator)
            for part, generator in zip(y, self.generators, strict=True)
        ]
        return y * torch.stack(masks)

    def mix(self, x: Tensor, gate_weights: Tensor) -> Tensor:
        """Weigh what all experts make of all tokens: (M, D), (M, E) -> (M, D)."""
        if self._mixes_in_turn(x):
            kind = x.device.type
            lower = torch.is_autocast_enabled(kind)
            dtype = torch.get_autocast_dtype(kind) if lower else x.dtype
            fc, proj = (self.c_fc_weight, self.c_fc_bias), (self.c_proj_weight, self.c_proj_bias)
            with torch.autocast(kind, enabled=False):
                return MixFrozenExperts.apply(x.to(dtype), gate_weights.float(), *fc, *proj)
        outputs = self(x.expand(self.num_experts, -1, -1))  # (E, M, D)
        return torch.einsum("emd,me->md", outputs, gate_weights)

    def _mixes_in_turn(self, x: Tensor) -> bool:
        """Tell whether to take one expert after the other: a CPU's caches gain, a GPU would wait.

        Only where the experts neither train nor drop units.
        """
        frozen = not any(p.requires_grad for p in self.parameters()) or not torch.is_grad_enabled()
        dropping = self.training and self.dropout > 0
        wanted = self.compute.experts
        in_turn = x.device.type == "cpu" if wanted == "auto" else wanted == "in_turn"
        return in_turn and frozen and not dropping


class Router(nn.Module):
    """Weighs the experts for each token: D -> 4D -> 4D -> 4D -> 2D -> E, softmax.

    With `top_k`, tokens go to the k experts of the highest scores alone, and while training learned
    Gaussian noise on the scores lets others have their turn (figure 9).
    """

    def __init__(self, config: ModelConfig, num_experts: int, top_k: int = 0) -> None:
        super().__init__()
        D = config.n_embd
        widths = (D, 4 * D, 4 * D, 4 * D, 2 * D, num_experts)
        self.top_k = top_k
        self.layers = nn.ModuleList(
            nn.Linear(i, o) for i, o in zip(widths[:-1], widths[1:], strict=True)
        )
        if top_k:
            self.noise = nn.Linear(2 * D, num_experts)
        self.apply(init_gpt2)

    def forward(self, x: Tensor) -> Tensor:
        """Return gate weights that sum to 1 over the experts: (..., D) -> (..., E)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        scores = self.layers[-1](x)
        if self.top_k:
            if self.training:
                scores = scores + torch.randn_like(scores) * F.softplus(self.noise(x))
            top = scores.topk(self.top_k, dim=-1)  # k of them even where scores are equal
            lowest = torch.full_like(scores, -torch.inf)
            scores = lowest.scatter(-1, top.indices, top.values)
        return scores.softmax(dim=-1)


class Mixture(nn.Module):
    """What the experts of one block add to it, weighed by a router or by assignment.

    Without a router, the batch is taken as E equal parts, the e-th for expert e (stage 2); a bank
    of one expert then serves the whole batch.
    """

    def __init__(self, config: ModelConfig, num_experts: int, routed: bool, top_k: int = 0) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.experts = ExpertBank(config, num_experts)
        self.router = Router(config, num_experts, top_k) if routed else None

    def forward(self, x: Tensor) -> Tensor:
        if self.router is None:
            parts = x.unflatten(0, (self.num_experts, -1)).flatten(1, 2)  # (E, B / E * L, D)
            return self.experts(parts).view_as(x)
        gate_weights = self.router(x).flatten(0, 1)  # (B * L, E)
        return self.experts.mix(x.flatten(0, 1), gate_weights).view_as(x)
