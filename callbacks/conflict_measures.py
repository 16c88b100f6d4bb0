"""Gradient similarity between tasks (paper appendix A.4).

With g_i the gradient of task i, total = sum_i g_i and G = total / N, all measures follow from
g_i . total, |g_i|^2 and |total|^2. They are kept per part of the model, such as one block's
attention; sums over parts give any larger subset. A first pass over the gradients gives the total,
a second one its inner products; they are kept in between where memory allows.

Letters: N tasks, G mean gradient; `parts` counts the parts of the model, `num_params` the
parameters.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from m3dt.stages.gradients import GradientRows


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
    parameters: Mapping[str, Tensor],
    gradient: Callable[[int], Tensor],
    num_tasks: int,
    memory: int,
    rank: int = 0,
    world_size: int = 1,
) -> ConflictTable:
    """Fill the table, and wait for the device once, at the end.

    Args:
        parameters: What the gradients are of, by name.
        gradient: Returns a task's gradient, (num_params,), the same each time.
        num_tasks: Number of tasks, N.
        memory: Bytes for gradients. If those of all tasks do not fit, it is called twice per task.
        rank: This process takes the tasks rank, rank + world_size, ...
        world_size: Number of processes; their sums are joined.
    """
    sizes = [p.numel() for p in parameters.values()]
    like, mine = next(iter(parameters.values())), range(rank, num_tasks, world_size)
    gradients = GradientRows(lambda i: gradient(mine[i]), len(mine), parameters.values(), memory)
    vectors = like.new_zeros(2, sum(sizes))
    total, units = vectors  # sum_i g_i and sum_i g_i / |g_i|
    tables = like.new_zeros(2, num_tasks, len(sizes))  # per parameter
    dots, squares = (table[rank::world_size] for table in tables)
    for place, rows in gradients:
        squares[place] = _inner(rows.split(sizes, dim=1), rows.split(sizes, dim=1))
        total += rows.sum(dim=0)
        norms = squares[place].sum(dim=1).sqrt()
        units.addmv_(rows.T, 1 / norms.clamp(min=torch.finfo(norms.dtype).tiny))
    _sum_over_ranks(vectors, world_size)
    for place, rows in gradients:
        dots[place] = _inner(rows.split(sizes, dim=1), total.split(sizes))
    _sum_over_ranks(tables, world_size)
    joined = _inner(vectors.split(sizes, dim=1), vectors.split(sizes, dim=1))  # (2, parameters)
    read = torch.cat((tables.flatten(0, 1), joined)).cpu().double()  # waits for the device

    parts = tuple(dict.fromkeys(map(part_of, parameters)))
    column = torch.tensor([parts.index(part_of(name)) for name in parameters])
    per_part = read.new_zeros(len(read), len(parts)).index_add_(1, column, read)
    dots, squares, (total_squares, unit_squares) = per_part.split((num_tasks, num_tasks, 2))
    return ConflictTable(parts, dots, squares, total_squares, float(unit_squares.sum()))


def _inner(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    """Return the inner products of several parameters' numbers, the last axis of each tensor.

    A last axis for the parameters takes its place.
    """
    return torch.stack([(x * y).sum(dim=-1) for x, y in zip(a, b, strict=True)], dim=-1)


def _sum_over_ranks(tensor: Tensor, world_size: int) -> None:
    """Replace a tensor by its sum over all processes."""
    if world_size > 1:
        dist.all_reduce(tensor)


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
    parameters: Sequence[Tensor],
    gradient: Callable[[Sequence[int]], Tensor],
    groups: Sequence[Sequence[int]],
    memory: int,
) -> ExpertTable:
    """Fill the table of E experts, and wait for the device once, at the end.

    Args:
        parameters: What the gradients are of, tensors (E, ...).
        gradient: Given a task for each expert, returns the gradients of all, (num_params,).
        groups: The tasks of each expert, E lists.
        memory: Bytes for gradients. If those of all rounds do not fit, they are computed twice.
    """
    E, largest = len(groups), max(len(group) for group in groups)
    sizes = torch.tensor([len(group) for group in groups])
    # In each round, each expert has its next task; after the end of its group it counts nothing.
    rounds = [[group[min(n, len(group) - 1)] for group in groups] for n in range(largest)]
    counts = torch.arange(largest)[:, None] < sizes  # (largest, E)

    def by_expert(flat: Tensor) -> list[Tensor]:
        """View (..., num_params) as a tensor (..., E, numbers) per parameter."""
        parts = flat.split([p.numel() for p in parameters], dim=-1)
        return [part.unflatten(-1, (E, -1)) for part in parts]

    gradients = GradientRows(lambda n: gradient(rounds[n]), largest, parameters, memory)
    shown = counts.to(parameters[0])
    total = parameters[0].new_zeros(sum(p.numel() for p in parameters))
    dots, squares = parameters[0].new_zeros(2, largest, E, len(parameters))
    for place, rows in gradients:
        for part in by_expert(rows):
            part.mul_(shown[place, :, None])
        squares[place] = _inner(by_expert(rows), by_expert(rows))
        total += rows.sum(dim=0)
    for place, rows in gradients:
        dots[place] = _inner(by_expert(rows), by_expert(total))
    total_squares = _inner(by_expert(total), by_expert(total))  # (E, parameters)
    read = torch.cat((dots, squares, total_squares[None])).cpu()  # waits for the device
    read = read.double().sum(dim=-1)
    dots, squares, (total_squares,) = read.split((largest, largest, 1))
    return ExpertTable((dots * counts).T, squares.T, total_squares, sizes)
