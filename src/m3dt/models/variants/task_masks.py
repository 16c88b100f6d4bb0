"""HarmoDT's binary masks: which parameters each task uses (Hu et al. 2024, section 4).

Letters: N tasks; `num_params` counts the parameters that train, in the order of the model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from m3dt.models.plain import PromptDT


def maskable(model: PromptDT) -> dict[str, nn.Parameter]:
    """Return the parameters that a mask covers, by name: those that the loss reaches."""
    unused = {id(p) for module in model.unused_modules() for p in module.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) not in unused}


def is_exempt(name: str) -> bool:
    """Tell whether every task uses the whole parameter: embeddings and prediction heads."""
    return "embed" in name or name.startswith("predict")


def erk_densities(shapes: Mapping[str, torch.Size], density: float) -> dict[str, float]:
    """Spread an overall density over tensors by the Erdos-Renyi-kernel rule.

    A tensor's density is proportional to the sum of its dimensions over their product. Tensors of
    one dimension are dense, and so are those that would exceed 1; the others compensate.
    """
    dense = {name for name, shape in shapes.items() if len(shape) < 2}
    wanted = density * sum(shape.numel() for shape in shapes.values())
    while True:
        sparse = {n: s for n, s in shapes.items() if n not in dense}
        left = wanted - sum(shapes[n].numel() for n in dense)
        share = sum(sum(s) for s in sparse.values())  # each tensor's numel times its raw density
        factor = max(left, 0.0) / share if share else 0.0
        over = [n for n, s in sparse.items() if factor * sum(s) > s.numel()]
        if not over:
            return {
                n: 1.0 if n in dense else factor * sum(s) / s.numel() for n, s in shapes.items()
            }
        dense.update(over)


class TaskMasks:
    """One bit per task and parameter.

    Attributes:
        packed: (N, ceil(num_params / 8)) of uint8.
    """

    def __init__(self, model: PromptDT, packed: Tensor) -> None:
        self.shapes = {name: p.shape for name, p in maskable(model).items()}
        self.size = sum(shape.numel() for shape in self.shapes.values())
        assert packed.shape[1] == (self.size + 7) // 8, "masks of another model"
        self.packed = packed

    @staticmethod
    def expected(model: PromptDT, num_tasks: int) -> Tensor:
        """Return a tensor without values that has the shape and type of `packed`."""
        size = sum(parameter.numel() for parameter in maskable(model).values())
        return torch.empty(num_tasks, (size + 7) // 8, dtype=torch.uint8, device="meta")

    @classmethod
    def draw(cls, model: PromptDT, num_tasks: int, sparsity: float, seed: int) -> TaskMasks:
        """Draw each task's mask from its own seed, with densities by `erk_densities`."""
        shapes = {name: p.shape for name, p in maskable(model).items()}
        densities = erk_densities(shapes, 1 - sparsity)
        rows = []
        for task in range(num_tasks):
            rng = np.random.default_rng((seed, task))
            parts = [rng.random(s.numel()) < densities[n] for n, s in shapes.items()]
            rows.append(np.packbits(np.concatenate(parts)))
        return cls(model, torch.from_numpy(np.stack(rows)))

    def flat(self, task: int | Tensor) -> Tensor:
        """Return a task's mask over all parameters, (num_params,) of bool.

        The task may be a tensor of one element on the masks' device, whose value is not read back.
        """
        if isinstance(task, Tensor):
            return self._unpacked(self.packed.index_select(0, task.view(1))[0])
        return self._unpacked(self.packed[task])

    def _unpacked(self, row: Tensor) -> Tensor:
        """Return (ceil(num_params / 8),) of uint8 as (num_params,) of bool."""
        bits = torch.arange(7, -1, -1, device=self.packed.device, dtype=torch.uint8)
        unpacked = (row[:, None] >> bits) & 1
        return unpacked.flatten()[: self.size].bool()

    def put(self, task: int, flat: Tensor) -> None:
        """Replace a task's mask by (num_params,) of bool."""
        row = np.packbits(flat.cpu().numpy())
        self.packed[task] = torch.from_numpy(row).to(self.packed.device)

    def of(self, task: int | Tensor) -> dict[str, Tensor]:
        """Return a task's mask by parameter; the task as for `flat`."""
        return self._by_parameter(self.flat(task))

    def union(self, tasks: Tensor) -> dict[str, Tensor]:
        """Return by parameter what any of some tasks uses; their numbers are not read back.

        Args:
            tasks: (N,) of int64, on the masks' device.
        """
        rows = self.packed.index_select(0, tasks).unbind()
        return self._by_parameter(self._unpacked(functools.reduce(torch.bitwise_or, rows)))

    def _by_parameter(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        return {n: part.view(s) for (n, s), part in zip(self.shapes.items(), parts, strict=True)}

    def masked(
        self, model: PromptDT, task: int | Tensor, whole_gradient: bool
    ) -> dict[str, Tensor]:
        """Return the parameters that a task's mask changes as its model has them: partly zero.

        Args:
            model: Keeps its parameters.
            task: As for `flat`.
            whole_gradient: Whether gradients reach what the mask leaves out, as if the masked
                parameters were those of the model. Otherwise they are zero there.
        """
        parameters, found = maskable(model), {}
        for name, mask in self.of(task).items():
            if not is_exempt(name):
                whole = parameters[name]
                part = whole * mask
                found[name] = whole + (part - whole).detach() if whole_gradient else part
        return found

    @torch.no_grad()
    def apply(self, model: PromptDT, task: int | Tensor) -> None:
        """Zero the parameters outside the task's mask, except embeddings and prediction heads.

        The task as for `flat`.
        """
        parameters = maskable(model)
        for name, mask in self.of(task).items():
            if not is_exempt(name):
                parameters[name].mul_(mask.to(parameters[name].device))


def exchange(
    mask: Tensor, agreement: Tensor, importance: Tensor, gamma: float, count: int
) -> Tensor:
    """Prune the least valuable parameters, and regrow as many where gradients agree most.

    Args:
        mask: (num_params,) of bool.
        agreement: The task's gradient times the mean gradient of all, elementwise, (num_params,).
        importance: What pruning a parameter would cost, (num_params,).
        gamma: Weight of agreement when pruning.
        count: How many parameters change places.

    Returns:
        The new mask, with as many parameters kept as before.
    """
    count = min(count, int(mask.sum()), int((~mask).sum()))
    value = (gamma * agreement + importance).masked_fill(~mask, torch.inf)
    pruned = value.topk(count, largest=False).indices
    regrown = agreement.masked_fill(mask, -torch.inf).topk(count).indices
    revised = mask.clone()
    revised[pruned] = False
    revised[regrown] = True
    return revised
