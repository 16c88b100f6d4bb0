"""Encoded prompts: what later tokens need of a prompt, computed once and shared by rows and steps.

Letters: B batch, P prompt steps, C cached tokens, H heads, W width of attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from m3dt.data.batch import Segment
from m3dt.models.routing import Selection

# Keys and values of tokens seen before, per block: two tensors (B, H, C, W / H).
KeyValues = list[tuple[Tensor, Tensor]]


class EncodedPrompt(NamedTuple):
    """What tells a model its task: keys and values of a prompt, or the number of the task.

    A model of the user's class gets the prompt itself.
    """

    key_values: KeyValues | None
    valid: Tensor | None  # (B, 3P) of bool
    task_index: Tensor | None = None  # (B,)
    selection: Selection | None = None  # each row's experts, if no router weighs them per token
    steps: Segment | None = None  # (B, P, ...)

    def take(self, rows: Tensor) -> EncodedPrompt:
        """Return the prompts of the given rows."""
        key_values = self.key_values and [(k[rows], v[rows]) for k, v in self.key_values]
        valid, task_index = (x if x is None else x[rows] for x in self[1:3])
        return EncodedPrompt(
            key_values,
            valid,
            task_index,
            self.selection and self.selection.take(rows),
            self.steps and Segment(*(tensor[rows] for tensor in self.steps)),
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
        selections = [prompt.selection for prompt in prompts if prompt.selection is not None]
        assert len(selections) in (0, len(prompts)), "prompts of one model have the same fields"
        steps = [prompt.steps for prompt in prompts if prompt.steps is not None]
        return cls(
            key_values or None,
            _cat([prompt.valid for prompt in prompts]),
            _cat([prompt.task_index for prompt in prompts]),
            Selection.join(selections) if selections else None,
            Segment(*map(torch.cat, zip(*steps, strict=True))) if steps else None,
        )


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate tensors, all of which may be None."""
    present = [tensor for tensor in tensors if tensor is not None]
    assert len(present) in (0, len(tensors)), "prompts of one model have the same fields"
    return torch.cat(present) if present else None
