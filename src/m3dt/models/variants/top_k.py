"""The router of figure 9: it sends each token to k experts alone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3dt.config import ModelConfig
from m3dt.models.plain import Router, init_gpt2


class TopKRouter(Router):
    """Sends tokens to the k experts of the highest scores.

    While it trains, learned Gaussian noise on the scores gives the other experts a chance.
    """

    def __init__(self, config: ModelConfig, num_experts: int, top_k: int) -> None:
        nn.Module.__init__(self)
        self.top_k = top_k
        self.layers = self.make_layers(config.n_embd, num_experts)
        self.noise = nn.Linear(2 * config.n_embd, num_experts)
        self.apply(init_gpt2)

    def forward(self, x: Tensor) -> Tensor:
        """Return gate weights, k of them above 0, that sum to 1: (..., D) -> (..., E)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        scores = self.layers[-1](x)
        if self.training:
            scores = scores + torch.randn_like(scores) * F.softplus(self.noise(x))
        top = scores.topk(self.top_k, dim=-1)  # k of them even where scores are equal
        lowest = torch.full_like(scores, -torch.inf)
        return lowest.scatter(-1, top.indices, top.values).softmax(dim=-1)
