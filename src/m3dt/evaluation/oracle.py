"""The oracle of figure 8: it knows which expert was trained on a task."""

from collections.abc import Sequence
from pathlib import Path

import torch

from m3dt.config import EvaluationConfig
from m3dt.evaluation.agent import make_agent
from m3dt.evaluation.policies import AgentPolicy
from m3dt.runs import MAIN
from m3dt.runs.assemble import build_experts
from m3dt.runs.entries import Entry
from m3dt.runs.registry import Registry
from m3dt.utils.errors import UserError


class OraclePolicy(AgentPolicy):
    """In each task, the backbone acts with the expert of the task's own group.

    One model holds all experts, so episodes of all tasks share its passes.

    Args:
        run: The run's folder.
        rules: As for `AgentPolicy`.
        device: Where the model goes.

    Raises:
        UserError: The run has no experts, a task belongs to several of them, or an expert was
            trained on another backbone.
    """

    def __init__(
        self,
        run: str | Path,
        rules: EvaluationConfig | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        registry = Registry(run)
        self.experts = [entry for entry in registry.entries() if entry.kind == "expert"]
        if not self.experts:
            raise UserError(f"{run}: has no experts for an oracle. Run `m3dt stage2` first.")
        self._numbers = expert_numbers(str(run), self.experts)
        root = registry.get("backbone", MAIN)
        model = build_experts(registry, root, self.experts)
        super().__init__(make_agent(registry, root, root, model, device), rules, "oracle")

    def expert_for(self, task: str) -> int:
        if task not in self._numbers:
            raise UserError(f"{self.agent.run}: no expert was trained on {task}")
        return self._numbers[task]

    def num_parameters(self) -> int:
        """Count the parameters that act in a task: the backbone's and one expert's."""
        banks = [mixture.experts for mixture in self.agent.model.mixtures]
        of_experts = sum(p.numel() for bank in banks for p in bank.parameters())
        return self.agent.model.num_parameters() - of_experts + of_experts // len(self.experts)


def expert_numbers(run: str, experts: Sequence[Entry]) -> dict[str, int]:
    """Return the position of each task's expert.

    Raises:
        UserError: A task belongs to several experts.
    """
    numbers: dict[str, int] = {}
    for number, entry in enumerate(experts):
        for task in entry.tasks:
            if task in numbers:
                raise UserError(
                    f"{run}: {task} belongs to several experts, so an oracle cannot choose. "
                    "Imported experts do not record which tasks they were trained on."
                )
            numbers[task] = number
    return numbers
