"""Encoded prompts: what later tokens need of a prompt, computed once and shared by rows and steps.

Letters: B batch, P prompt steps, C cached tokens, H heads, W width of attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Keys and values of tokens seen before, per block: two tensors (B, H, C, W / H).
KeyValues = list[tuple[Tensor, Tensor]]


class EncodedPrompt(NamedTuple):
    """What tells a model its task: keys and values of a prompt, or the number of the task."""

    key_values: KeyValues | None
    valid: Tensor | None  # (B, 3P) of bool
    task_index: Tensor | None = None  # (B,)
    expert: Tensor | None = None  # (B,), number of each row's expert if no router weighs them

    def take(self, rows: Tensor) -> EncodedPrompt:
        """Return the prompts of the given rows."""
        key_values = self.key_values and [(k[rows], v[rows]) for k, v in self.key_values]
        return EncodedPrompt(key_values, *(x if x is None else x[rows] for x in self[1:]))

    @classmethod
    def join(cls, prompts: Sequence[EncodedPrompt]) -> EncodedPrompt:
        """Return the rows of several prompts, in their order."""
        if len(prompts) == 1:
            return prompts[0]

        layers = zip(*(prompt.key_values or () for prompt in prompts), strict=True)
        key_values = [
            (torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers
        ]
        rest = zip(*(prompt[1:] for prompt in prompts), strict=True)
        return cls(key_values or None, *map(_cat, rest))


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate tensors, all of which may be None."""
    present = [tensor for tensor in tensors if tensor is not None]
    assert len(present) in (0, len(tensors)), "prompts of one model have the same fields"
    return torch.cat(present) if present else None
