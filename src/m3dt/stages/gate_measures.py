"""How well gates that are chosen by prompts know the tasks.

Letters: N tasks, E experts; `prompts` counts the prompts of a task.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor


class GateMeasures(TypedDict):
    """Means over tasks and their prompts."""

    accuracy: float
    """Share of prompts whose largest gate is that of the task's own expert, 0 to 1."""
    own_gate: float
    """Gate of the task's own expert, 0 to 1."""
    entropy: float
    """Entropy of the gates, divided by its maximum log E."""
    agreement: float
    """1 minus half the sum of differences between the gates of a task's first two prompts."""
    confusion: list[list[float]]
    """Mean gates, (groups, E): a row for the tasks of each expert's group, zeros for none."""


def measure_gates(gates: Tensor, own: Sequence[int]) -> GateMeasures:
    """Measure gates of all tasks' prompts.

    Args:
        gates: (N, prompts, E), with two prompts or more.
        own: The number of each task's own expert, N of them.
    """
    gates, numbers = gates.double().cpu(), torch.tensor(own)
    E = gates.shape[2]
    entropy = -(gates * gates.clamp(min=1e-12).log()).sum(dim=2)
    apart = (gates[:, 0] - gates[:, 1]).abs().sum(dim=1) / 2
    rows = [gates[numbers == e].flatten(0, 1) for e in range(E)]
    confusion = [(row.mean(dim=0) if len(row) else torch.zeros(E)).tolist() for row in rows]
    return {
        "accuracy": float((gates.argmax(dim=2) == numbers[:, None]).double().mean()),
        "own_gate": float(gates[torch.arange(len(own)), :, numbers].mean()),
        "entropy": float(entropy.mean()) / (math.log(E) or 1e-12),
        "agreement": 1 - float(apart.mean()),
        "confusion": confusion,
    }
