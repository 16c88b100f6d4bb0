"""What a model is given, and how one batch serves several experts in stage 2.

Letters: B batch, T timesteps, P prompt steps, S state, A action, E experts, N tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from m3dt.data.format import NUM_PROMPTS


class Segment(NamedTuple):
    """Consecutive timesteps of trajectories, padded on the left."""

    states: Tensor  # (B, T, S), normalised
    actions: Tensor  # (B, T, A)
    returns_to_go: Tensor  # (B, T, 1), divided by the task's return scale
    timesteps: Tensor  # (B, T) of int64
    attention_mask: Tensor  # (B, T), 1 for real steps

    def take(self, rows: Tensor | slice) -> Segment:
        """Return the chosen rows."""
        return Segment(*(tensor[rows] for tensor in self))


class Batch(NamedTuple):
    """Segments with their prompts and what the loss needs to know."""

    segment: Segment
    prompt: Segment  # (num_prompts, P, ...), distinct ones
    prompt_rows: Tensor  # (B,) of int64, which of them each row has
    action_mask: Tensor  # (B, A), 1 for the task's real action dimensions
    loss_weight: Tensor  # (B,), weight of a row's squared errors; over a stream they make a mean
    task_index: Tensor  # (B,) of int64, position in the suite
    prompt_task: Tensor  # (num_prompts,) of int64, the task of each prompt

    @property
    def tasks(self) -> Tensor:
        """The tasks of the batch of all processes, in the order of its rows, (N,) of int64."""
        return self.prompt_task[::NUM_PROMPTS]

    @property
    def num_rows(self) -> int:
        """Number of segments, B."""
        return len(self.loss_weight)

    def cast(self, dtype: torch.dtype) -> Batch:
        """Return the batch with its floating-point tensors in another precision."""

        def convert(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        segment, prompt = (Segment(*map(convert, part)) for part in (self.segment, self.prompt))
        return Batch(segment, prompt, *map(convert, self[2:]))

    def by_task(self, sizes: Sequence[int]) -> Iterator[Batch]:
        """Yield the rows of each task with the task's prompts.

        Args:
            sizes: Number of rows of each of `tasks`; 0 yields a batch without rows.
        """
        first = 0
        for number, size in enumerate(sizes):
            rows = slice(first, first + size)
            prompts = slice(number * NUM_PROMPTS, (number + 1) * NUM_PROMPTS)
            yield Batch(
                self.segment.take(rows),
                self.prompt.take(prompts),
                self.prompt_rows[rows] - number * NUM_PROMPTS,
                self.action_mask[rows],
                self.loss_weight[rows],
                self.task_index[rows],
                self.prompt_task[prompts],
            )
            first += size

    def row_prompts(self) -> Segment:
        """Return each row's prompt, (B, P, ...)."""
        return self.prompt.take(self.prompt_rows)


@dataclass(frozen=True)
class ExpertParts:
    """E equal parts of a batch's rows: part e belongs to expert e.

    The data module joins batches by it, and mixtures without a router split hidden states by it.
    """

    num_experts: int

    def check(self, sizes: Sequence[int]) -> None:
        """Refuse parts, given by their numbers of rows, that are not E equal ones.

        Raises:
            ValueError: There are not E parts, or they differ in size.
        """
        if len(sizes) != self.num_experts or len(set(sizes)) > 1:
            raise ValueError(f"parts of {list(sizes)} rows are not {self.num_experts} equal parts")

    def split(self, rows: Tensor) -> Tensor:
        """Return the parts: (B, ...) -> (E, B / E, ...).

        Raises:
            ValueError: The rows do not divide into E parts.
        """
        if len(rows) % self.num_experts:
            raise ValueError(f"{len(rows)} rows are not {self.num_experts} equal parts")
        return rows.unflatten(0, (self.num_experts, -1))

    def merge(self, parts: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the rows again: E of (B / E, ...) -> (B, ...).

        Raises:
            ValueError: There are not E parts, or they differ in their number of rows.
        """
        self.check([len(part) for part in parts])
        return parts.flatten(0, 1) if isinstance(parts, Tensor) else torch.cat(list(parts))
