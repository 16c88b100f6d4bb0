"""Big experts: whole transformers between the backbone's embeddings and its heads (section 5.3).

Letters: B batch, L tokens, D embedding width, E experts.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from m3dt.config import ModelConfig
from m3dt.data.batch import ExpertParts
from m3dt.models.bank import Bank
from m3dt.models.plain import Mixture, PromptDT, Transformer, init_gpt2


class TrunkBank(Bank):
    """E transformers of the backbone's shape, the whole-model counterpart of `ExpertBank`.

    Each drops units in many places. Run them in the order of `in_turn`, so that all draw the same.
    """

    def __init__(self, config: ModelConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.dropout)
        trunks = (Transformer(config, token_table=False) for _ in range(num_experts))
        self.trunks = nn.ModuleList(trunks)

    def trunk(self, expert: int) -> Transformer:
        """Return one expert."""
        trunk = self.trunks[expert]
        assert isinstance(trunk, Transformer)
        return trunk

    def forward(self, expert: int, x: Tensor, allowed: Tensor) -> Tensor:
        """Apply one expert: (B, L, D) -> (B, L, D)."""
        return self.trunk(expert)(x, allowed)

    def in_turn(self, device: torch.device) -> Iterator[int]:
        """Count the experts, and take the device's generator back before each but the first.

        So all experts draw the same dropout, and none depends on the others.
        """
        generator = torch.cuda if device.type == "cuda" else torch
        state = generator.get_rng_state() if self.drops else None
        for expert in range(self.num_experts):
            if state is not None:
                generator.set_rng_state(state)
            yield expert

    def reset(self, seeds: Sequence[int]) -> None:
        for trunk, seed in zip(self.trunks, seeds, strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                trunk.apply(init_gpt2)

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
            rows, masks = parts.split(x), parts.split(allowed)
            return parts.merge(
                [self.experts(e, rows[e], masks[e]) for e in self.experts.in_turn(x.device)]
            )
        gate_weights = self.router(hidden)  # (B, L, E)
        outputs = (self.experts(e, x, allowed) for e in self.experts.in_turn(x.device))
        return sum(gate_weights[..., e, None] * y for e, y in enumerate(outputs))


def capturable(model: PromptDT) -> bool:
    """Tell whether a training step of the model can be recorded as a CUDA graph.

    Big experts that drop units cannot: within a graph, nobody can take the generator back.
    """
    big = model.big_experts
    return not (isinstance(big, TrunkMixture) and big.experts.drops)
