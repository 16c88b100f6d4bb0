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

    def take(self, rows: Tensor) -> EncodedPrompt:
        """Return the prompts of the given rows."""
        return EncodedPrompt(
            self.key_values and [(k[rows], v[rows]) for k, v in self.key_values],
            None if self.valid is None else self.valid[rows],
            None if self.task_index is None else self.task_index[rows],
        )

    @classmethod
    def join(cls, prompts: Sequence[EncodedPrompt]) -> EncodedPrompt:
        """Return the rows of several prompts, in their order."""
        if len(prompts) == 1:
            return prompts[0]

        layers = zip(*(prompt.key_values or () for prompt in prompts), strict=True)
        key_values = [
            (torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers
        ]
        valid = [prompt.valid for prompt in prompts if prompt.valid is not None]
        numbers = [prompt.task_index for prompt in prompts if prompt.task_index is not None]
        return cls(
            key_values or None,
            torch.cat(valid) if valid else None,
            torch.cat(numbers) if numbers else None,
        )
