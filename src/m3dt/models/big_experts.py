"""Big experts: whole transformers between the backbone's embeddings and its heads (section 5.3).

Letters: B batch, L tokens, R tokens that are read out, C cached tokens, D embedding, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from m3dt.config import ComputeConfig, ModelConfig
from m3dt.models.moe import Router
from m3dt.models.transformer import KeyValues, Transformer, init_gpt2


class TrunkBank(nn.Module):
    """E transformers with the backbone's shape, the whole-model counterpart of `ExpertBank`."""

    def __init__(self, config: ModelConfig, num_experts: int) -> None:
        super().__init__()
        trunks = (Transformer(config, token_table=False) for _ in range(num_experts))
        self.trunks = nn.ModuleList(trunks)
        self.seeds: list[int] = []
        self.compute = ComputeConfig()  # as `ExpertBank` has; trunks are always run in turn

    def reset(self, seeds: Sequence[int]) -> None:
        """Draw each expert's weights from its own seed, E of them."""
        for trunk, seed in zip(self.trunks, seeds, strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                trunk.apply(init_gpt2)

    def reseed(self, seeds: Sequence[int]) -> None:
        """Start each expert's dropout from its own seed, E of them."""
        self.seeds = list(seeds)

    def squared_gradient_norms(self) -> Tensor:
        """Return the squared norm of each expert's gradient, (E,)."""
        norms = [
            torch.stack([p.grad.square().sum() for p in trunk.parameters() if p.grad is not None])
            for trunk in self.trunks
        ]
        return torch.stack([n.sum() for n in norms])

    def scale_gradients(self, factors: Tensor) -> None:
        """Multiply each expert's gradient by its own factor, (E,)."""
        for trunk, factor in zip(self.trunks, factors, strict=True):
            for parameter in trunk.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    def weights_of(self, expert: int) -> dict[str, Tensor]:
        """Return one expert's tensors by name."""
        return self.trunks[expert].state_dict()

    def load_expert(self, expert: int, weights: Mapping[str, Tensor]) -> None:
        """Copy one expert's tensors, as `weights_of` gives them, into the bank."""
        self.trunks[expert].load_state_dict(weights)

    def run(
        self, expert: int, x: Tensor, valid: Tensor, cache: KeyValues | None,
        cache_valid: Tensor | None, read: slice,
    ) -> tuple[Tensor, KeyValues]:  # fmt: skip
        """Run one expert as `Transformer.forward` does, its dropout by its own seed."""
        trunk = self.trunks[expert]
        if not (self.training and self.seeds):
            return trunk(x, valid, cache, cache_valid, read)
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.seeds[expert])
            return trunk(x, valid, cache, cache_valid, read)


class TrunkMixture(nn.Module):
    """What big experts add to the backbone's last hidden state, weighed as `Mixture` weighs."""

    def __init__(self, config: ModelConfig, num_experts: int, routed: bool, top_k: int = 0) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.experts = TrunkBank(config, num_experts)
        self.router = Router(config, num_experts, top_k) if routed else None

    def forward(
        self, hidden: Tensor, x: Tensor, valid: Tensor, cache: KeyValues | None,
        cache_valid: Tensor | None, read: slice,
    ) -> tuple[Tensor, KeyValues]:  # fmt: skip
        """Run the experts on embedded tokens.

        Args:
            hidden: The backbone's last hidden state, which the router reads, (B, R, D).
            x: Embedded tokens, (B, L, D).
            valid: (B, L) of bool.
            cache: Keys and values of a prefix for every expert in turn, E times as many as one has.
            cache_valid: (B, C) of bool.
            read: Positions whose result is wanted.

        Returns:
            What to add to `hidden`, and the experts' keys and values in turn.
        """
        E = self.num_experts
        if self.router is None and E > 1:  # stage 2: equal parts of the batch, no prefix
            parts = [
                self.experts.run(e, x_e, valid_e, None, None, read)[0]
                for e, (x_e, valid_e) in enumerate(zip(x.chunk(E), valid.chunk(E), strict=True))
            ]
            return torch.cat(parts), []
        outputs, key_values = [], []
        for e in range(E):
            own = None if cache is None else cache[e * len(cache) // E : (e + 1) * len(cache) // E]
            y, kv = self.experts.run(e, x, valid, own, cache_valid, read)
            outputs.append(y)
            key_values += kv
        if self.router is None:
            return outputs[0], key_values
        gate_weights = self.router(hidden)  # (B, R, E)
        return torch.einsum("ebrd,bre->brd", torch.stack(outputs), gate_weights), key_values
