"""What decides which expert acts: start here.

A router gives gates, weights over the experts that sum to 1. The paper's router computes them for
each token of each block (`m3dt.models.plain.Router`). A task does not change within an episode, so
gates can also be chosen once, from the prompt, and held: by a `PromptRouter`, which is trained on
the tasks' groups, or by averaging the paper's gates over the prompt (`prompt_gates`).
`select` then says how many experts act.

Letters: B rows, M mixtures of the model (one per block), E experts, K chosen experts per row,
P prompt steps, L tokens, S state, A action, F features.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3dt.config import ModelConfig
from m3dt.data.batch import Segment
from m3dt.models.plain import PromptDT, token_mask

_LARGEST_FEATURE = 10.0  # in standard deviations; prompts of unknown tasks lie far out
CERTAIN = 0.9  # `auto` adds experts until their gates sum to this
_MOST_EXPERTS = 4  # that `auto` uses for a prompt


class Selection(NamedTuple):
    """The experts that act for each row, in every mixture, until its episode ends."""

    experts: Tensor | None  # (B, M, K) of int64; None for all, in their order
    weights: Tensor  # (B, M, K), 0 where a row needs fewer than K

    def take(self, rows: Tensor) -> Selection:
        """Return the chosen rows."""
        return Selection(None if self.experts is None else self.experts[rows], self.weights[rows])

    @classmethod
    def join(cls, parts: Sequence[Selection]) -> Selection:
        """Return the rows of several selections, in their order."""
        numbers = [part.experts for part in parts if part.experts is not None]
        weights = torch.cat([part.weights for part in parts])
        return cls(torch.cat(numbers) if numbers else None, weights)

    def of(self, mixture: int) -> tuple[Tensor | None, Tensor]:
        """Return experts and weights of one mixture, (B, K) each."""
        numbers = None if self.experts is None else self.experts[:, mixture]
        return numbers, self.weights[:, mixture]


def select(gates: Tensor, experts: str) -> Selection:
    """Choose which experts act.

    Args:
        gates: (B, M, E).
        experts: `all`, a number k for the k largest gates, or `auto` for the fewest whose gates sum
            to `CERTAIN`, at most 4. The weights of those chosen are divided by their sum.
    """
    E = gates.shape[-1]
    if experts == "all" or (experts != "auto" and int(experts) >= E):
        return Selection(None, gates)
    if experts != "auto":
        return Selection(*top_gates(gates, int(experts)))
    return Selection(*top_gates(gates, min(_MOST_EXPERTS, E), CERTAIN))


def top_gates(gates: Tensor, k: int, certain: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the experts of the k largest gates, and these gates divided by their sum.

    Those after the first whose gates sum to `certain` get 0.

    Returns:
        Numbers and weights: (..., E) -> (..., k) each.
    """
    top = gates.topk(k, dim=-1)
    before = top.values.cumsum(dim=-1) - top.values
    weights = top.values * (before < certain)
    return top.indices, weights / weights.sum(dim=-1, keepdim=True)


def dense_gates(numbers: Tensor, weights: Tensor, num_experts: int) -> Tensor:
    """Return gates over all experts, 0 for those not chosen: (..., k) each -> (..., E)."""
    empty = weights.new_zeros(*weights.shape[:-1], num_experts)
    return empty.scatter(-1, numbers, weights)


class PromptRouter(nn.Module):
    """Chooses experts by fixed features of a raw prompt of `model`'s widths: F -> hidden -> E.

    The features do not pass through the backbone, so they stay valid whatever is trained later.
    """

    mean: Tensor  # (F,), of the features in training
    std: Tensor  # (F,)

    def __init__(self, model: ModelConfig, num_experts: int, hidden: int) -> None:
        super().__init__()
        F = 2 * (2 * model.state_dim + model.action_dim + 1)
        self.register_buffer("mean", torch.zeros(F))
        self.register_buffer("std", torch.ones(F))
        self.layers = nn.Sequential(nn.Linear(F, hidden), nn.ReLU(), nn.Linear(hidden, num_experts))

    def standardize(self, features: Tensor) -> None:
        """Take mean and deviation from the features of training prompts, (prompts, F)."""
        self.mean.copy_(features.mean(dim=0))
        self.std.copy_(features.std(dim=0).clamp(min=1e-3))

    def logits(self, features: Tensor) -> Tensor:
        """Return the scores of the experts: (B, F) -> (B, E)."""
        standard = (features - self.mean) / self.std
        return self.layers(standard.clamp(-_LARGEST_FEATURE, _LARGEST_FEATURE))

    def forward(self, features: Tensor) -> Tensor:
        """Return gates: (B, F) -> (B, E)."""
        return self.logits(features).softmax(dim=-1)


def prompt_features(prompt: Segment, mean: Tensor, std: Tensor) -> Tensor:
    """Describe prompts by mean and deviation over their steps, (B, F).

    Of each step they take the raw state, the normalised state, the action, and the reward in units
    of the return scale. Normalised states alone look alike across tasks.

    Args:
        prompt: (B, P, ...), normalised.
        mean: Of the normalisation of each row's states, (B, S).
        std: (B, S).
    """
    raw = prompt.states * std[:, None] + mean[:, None]
    rewards = prompt.returns_to_go[:, :-1] - prompt.returns_to_go[:, 1:]
    rewards = F.pad(rewards, (0, 0, 0, 1))  # the last step's reward is not known
    steps = torch.cat((raw, prompt.states, prompt.actions, rewards), dim=2)
    real = prompt.attention_mask[..., None]  # (B, P, 1)
    count = real.sum(dim=1).clamp(min=1)
    average = (steps * real).sum(dim=1) / count
    squared = ((steps - average[:, None]).square() * real).sum(dim=1) / count
    return torch.cat((average, squared.sqrt()), dim=1)


class GivenGates(nn.Module):
    """Takes the place of a router in the plain model, where gates are chosen once per row."""

    def __init__(self, gates: Tensor) -> None:
        super().__init__()
        self.gates = gates  # (B, E)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gates for every token: (B, L, D) -> (B, L, E)."""
        return self.gates[:, None].expand(-1, x.shape[1], -1)


class LargestGates(nn.Module):
    """A router that keeps the k largest gates of each token and divides them by their sum."""

    def __init__(self, router: nn.Module, k: int) -> None:
        super().__init__()
        self.router = router
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """Return the gates: (..., D) -> (..., E)."""
        gates = self.router(x)
        return dense_gates(*top_gates(gates, self.k), gates.shape[-1])


def with_routers(model: PromptDT, routers: Sequence[nn.Module]) -> PromptDT:
    """Return a copy that shares all weights and has these routers, one per mixture."""
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in model.parameters()})
    for mixture, router in zip(copied.mixtures, routers, strict=True):
        mixture.router = router
    return copied


@contextmanager
def watched_gates(model: PromptDT) -> Iterator[list[Tensor]]:
    """Yield a list to which each router adds its gates, (B, L, E), in forward passes within."""
    seen: list[Tensor] = []
    routers = [mixture.router for mixture in model.mixtures if mixture.router is not None]
    hooks = [r.register_forward_hook(lambda m, a, out: seen.append(out)) for r in routers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def mean_gates(gates: Sequence[Tensor], prompt: Segment) -> Tensor:
    """Average watched gates over a prompt's real tokens: M of (B, L, E) -> (B, M, E)."""
    real = token_mask(prompt)[:, None, :, None]  # (B, 1, L, 1)
    stacked = torch.stack(list(gates), dim=1).float()  # (B, M, L, E)
    return (stacked * real).sum(dim=2) / real.sum(dim=2)
