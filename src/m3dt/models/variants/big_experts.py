"""Big experts: whole transformers between the backbone's embeddings and its heads (section 5.3).

Letters: B batch, L tokens, D embedding width, E experts.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from m3dt.config import ModelConfig
from m3dt.data.batch import ExpertParts
from m3dt.models.bank import Bank
from m3dt.models.plain import Mixture, Transformer, init_gpt2


class TrunkBank(Bank):
    """E transformers of the backbone's shape, the whole-model counterpart of `ExpertBank`."""

    def __init__(self, config: ModelConfig, num_experts: int) -> None:
        super().__init__(num_experts)
        trunks = (Transformer(config, token_table=False) for _ in range(num_experts))
        self.trunks = nn.ModuleList(trunks)
        self.seeds: list[int] = []

    def trunk(self, expert: int) -> Transformer:
        """Return one expert."""
        trunk = self.trunks[expert]
        assert isinstance(trunk, Transformer)
        return trunk

    def forward(self, expert: int, x: Tensor, allowed: Tensor) -> Tensor:
        """Apply one expert: (B, L, D) -> (B, L, D)."""
        with self.seeded(expert, x.device):
            return self.trunk(expert)(x, allowed)

    @contextmanager
    def seeded(self, expert: int, device: torch.device) -> Iterator[None]:
        """Draw dropout by the expert's own seed, while it trains."""
        if not (self.training and self.seeds):
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seeds[expert])
            yield

    def reset(self, seeds: Sequence[int]) -> None:
        for trunk, seed in zip(self.trunks, seeds, strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                trunk.apply(init_gpt2)

    def reseed(self, seeds: Sequence[int]) -> None:
        self.seeds = list(seeds)

    def weights_of(self, expert: int) -> dict[str, Tensor]:
        return self.trunks[expert].state_dict()

    def load_expert(self, expert: int, weights: Mapping[str, Tensor]) -> None:
        self.trunks[expert].load_state_dict(weights)

    def squared_gradient_norms(self) -> Tensor:
        norms = [
            torch.stack([p.grad.square().sum() for p in trunk.parameters() if p.grad is not None])
            for trunk in self.trunks
        ]
        return torch.stack([n.sum() for n in norms])

    def scale_gradients(self, factors: Tensor) -> None:
        for trunk, factor in zip(self.trunks, factors, strict=True):
            for parameter in trunk.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)


class TrunkMixture(Mixture):
    """What big experts add to the backbone's last hidden state, weighed as in `Mixture`."""

    experts: TrunkBank

    def forward(  # type: ignore[override]  # it reads the embedded tokens, not a block's input
        self, hidden: Tensor, x: Tensor, allowed: Tensor
    ) -> Tensor:
        """Run the experts on embedded tokens.

        Args:
            hidden: The backbone's last hidden state, which the router reads, (B, L, D).
            x: Embedded tokens, (B, L, D).
            allowed: Which token may attend to which, (B, L, L) of bool.
        """
        if self.router is None:
            parts = ExpertParts(self.num_experts)
            pairs = zip(parts.split(x), parts.split(allowed), strict=True)
            return parts.merge([self.experts(e, *pair) for e, pair in enumerate(pairs)])
        gate_weights = self.router(hidden)  # (B, L, E)
        outputs = (self.experts(e, x, allowed) for e in range(self.num_experts))
        return sum(gate_weights[..., e, None] * y for e, y in enumerate(outputs))
