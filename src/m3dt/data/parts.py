"""How one batch serves several experts in stage 2: equal parts of its rows, one part per expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ExpertParts:
    """E equal parts of a batch's rows: part e belongs to expert e.

    The data module joins batches by it, and mixtures without a router split hidden states by it.
    """

    num_experts: int

    def check(self, sizes: Sequence[int]) -> None:
        """Refuse parts that are not E equal ones.

        Args:
            sizes: Rows of each part.

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
