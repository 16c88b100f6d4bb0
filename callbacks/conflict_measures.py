"""Gradient similarity between tasks, computed in two passes (paper appendix A.4).

With g_i the gradient of task i, total = sum_i g_i and G = total / N, all measures follow from
g_i . total, |g_i|^2 and |total|^2. They are kept per part of the model, such as one block's
attention; sums over parts give any larger subset. Memory holds three gradients, whatever the number
of tasks.

Letters: N tasks, G mean gradient; `parts` counts the parts of the model.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

Gradient = Sequence[Tensor]  # one tensor per parameter


@dataclass(frozen=True)
class ConflictTable:
    """Inner products per task and part, from which every measure follows.

    Attributes:
        parts: Names of the parts.
        dots: g_i . total, (N, parts) float64.
        squares: |g_i|^2, (N, parts) float64.
        total_squares: |total|^2, (parts,) float64.
        unit_square: |sum_i g_i / |g_i||^2 over all parts.
    """

    parts: tuple[str, ...]
    dots: Tensor
    squares: Tensor
    total_squares: Tensor
    unit_square: float

    def _sums(self, keep: Callable[[str], bool]) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.tensor([keep(part) for part in self.parts])
        return (
            self.dots[:, chosen].sum(dim=1),
            self.squares[:, chosen].sum(dim=1),
            self.total_squares[chosen].sum(),
        )

    def to_mean(self, keep: Callable[[str], bool] = lambda part: True) -> Tensor:
        """Return cos(g_i, G) of each task over the parts kept, (N,)."""
        dots, squares, total = self._sums(keep)
        return _ratio(dots, squares.sqrt() * total.sqrt())

    def leave_one_out(self, keep: Callable[[str], bool] = lambda part: True) -> Tensor:
        """Return cos(g_i, total - g_i) of each task over the parts kept, (N,)."""
        dots, squares, total = self._sums(keep)
        others = (total - 2 * dots + squares).clamp(min=0).sqrt()
        return _ratio(dots - squares, squares.sqrt() * others)

    def pairwise(self) -> float:
        """Return the mean of cos(g_i, g_j) over pairs i != j."""
        N = len(self.dots)
        return (self.unit_square - N) / (N * (N - 1)) if N > 1 else 1.0


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with 0 where a gradient vanishes."""
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1e-300), 0.0)


def part_of(name: str) -> str:
    """Return the part of the model that a parameter belongs to, such as `block2/attention`."""
    match = re.match(r"transformer\.h\.(\d+)\.(\w+)", name)
    if match is None:
        return "head" if name.startswith(("predict", "transformer.ln_f")) else "embedding"
    block, module = match.groups()
    parts = {"ln_1": "attention", "attn": "attention", "ln_2": "mlp", "mlp": "mlp"}
    return f"block{block}/{parts.get(module, module)}"


def measure(
    names: Sequence[str],
    gradient: Callable[[int], Gradient],
    num_tasks: int,
    rank: int = 0,
    world_size: int = 1,
) -> ConflictTable:
    """Fill the table; `gradient(task)` is called twice per task and must return the same each time.

    Args:
        names: Names of the parameters.
        gradient: Returns a task's gradient.
        num_tasks: Number of tasks, N.
        rank: This process takes the tasks rank, rank + world_size, ...
        world_size: Number of processes; their sums are joined.
    """
    parts = tuple(dict.fromkeys(part_of(name) for name in names))
    column = torch.tensor([parts.index(part_of(name)) for name in names])
    mine = range(rank, num_tasks, world_size)

    def per_part(values: Iterable[Tensor]) -> Tensor:
        stacked = torch.stack(list(values)).double().cpu()
        return torch.zeros(len(parts), dtype=torch.float64).index_add_(0, column, stacked)

    squares = torch.zeros(num_tasks, len(parts), dtype=torch.float64)
    total: list[Tensor] = []
    units: list[Tensor] = []  # sum_i g_i / |g_i|
    for task in mine:
        g = gradient(task)
        squares[task] = per_part(t.square().sum() for t in g)
        scale = 1 / max(squares[task].sum().sqrt().item(), 1e-30)
        total, units = total or _zeros_like(g), units or _zeros_like(g)
        torch._foreach_add_(total, list(g))
        torch._foreach_add_(units, list(g), alpha=scale)
    if not total:  # more processes than tasks
        total, units = _zeros_like(gradient(0)), _zeros_like(gradient(0))
    _sum_over_ranks((*total, *units), world_size)

    dots = torch.zeros_like(squares)
    for task in mine:
        dots[task] = per_part((a * b).sum() for a, b in zip(gradient(task), total, strict=True))
    _sum_over_ranks((dots, squares), world_size, total[0].device)
    total_squares = per_part(t.square().sum() for t in total)
    unit_square = float(sum(t.double().square().sum() for t in units))
    return ConflictTable(parts, dots, squares, total_squares, unit_square)


def _zeros_like(gradient: Gradient) -> list[Tensor]:
    return [torch.zeros_like(t) for t in gradient]


def _sum_over_ranks(
    tensors: Sequence[Tensor], world_size: int, device: torch.device | None = None
) -> None:
    """Replace tensors by their sums over all processes, which meet on a device."""
    for tensor in tensors if world_size > 1 else ():
        joined = tensor.to(device or tensor.device)
        dist.all_reduce(joined)
        tensor.copy_(joined)


@dataclass(frozen=True)
class ExpertTable:
    """The same inner products inside each of E experts, over the tasks of its own group.

    Attributes:
        dots: g_i . total of an expert's parameters, (E, largest group) float64, padded with 0.
        squares: |g_i|^2, likewise.
        total_squares: |total|^2, (E,) float64.
        sizes: Tasks of each group, (E,).
    """

    dots: Tensor
    squares: Tensor
    total_squares: Tensor
    sizes: Tensor

    def to_mean(self) -> float:
        """Return the mean over experts of the mean over tasks of cos(g_i, G)."""
        return self._mean(
            _ratio(self.dots, self.squares.sqrt() * self.total_squares.sqrt()[:, None])
        )

    def leave_one_out(self) -> float:
        """Return the same of cos(g_i, total - g_i)."""
        others = (self.total_squares[:, None] - 2 * self.dots + self.squares).clamp(min=0).sqrt()
        return self._mean(_ratio(self.dots - self.squares, self.squares.sqrt() * others))

    def mean_tasks(self) -> float:
        """Return the mean size of the groups that count: those of two tasks or more."""
        several = self.sizes > 1
        return float(self.sizes[several].double().mean()) if several.any() else 0.0

    def _mean(self, cosines: Tensor) -> float:
        several = self.sizes > 1
        if not several.any():
            return 1.0
        return float((cosines.sum(dim=1) / self.sizes)[several].mean())


def measure_experts(
    gradient: Callable[[Sequence[int]], Gradient], groups: Sequence[Sequence[int]]
) -> ExpertTable:
    """Fill the table of E experts whose weights are stacked.

    Args:
        gradient: Given a task for each expert, returns the gradients of all, tensors (E, ...).
        groups: The tasks of each expert, E lists.
    """
    E, largest = len(groups), max(len(group) for group in groups)
    sizes = torch.tensor([len(group) for group in groups])

    def round_of(number: int) -> Gradient:
        """Return each expert's gradient of its number-th task, 0 after the end of its group."""
        found = gradient([group[min(number, len(group) - 1)] for group in groups])
        real = (number < sizes).to(found[0].device)
        return [g * real.view(-1, *[1] * (g.ndim - 1)) for g in found]

    def per_expert(values: Iterable[Tensor]) -> Tensor:
        return torch.stack([v.flatten(1).double().sum(dim=1) for v in values]).sum(dim=0).cpu()

    dots, squares = (torch.zeros(E, largest, dtype=torch.float64) for _ in range(2))
    total: list[Tensor] = []
    for number in range(largest):
        g = round_of(number)
        squares[:, number] = per_expert(t.square() for t in g)
        total = [a + b for a, b in zip(total, g, strict=True)] if total else list(g)
    for number in range(largest):
        pairs = zip(round_of(number), total, strict=True)
        dots[:, number] = per_expert(a * b for a, b in pairs)
    return ExpertTable(dots, squares, per_expert(t.square() for t in total), sizes)
