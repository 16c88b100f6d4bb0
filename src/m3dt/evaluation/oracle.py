"""All experts of a run in one model, without a router: for the oracle of figure 8 and controls."""

from collections.abc import Sequence
from pathlib import Path

import torch

from m3dt.config import EvaluationConfig
from m3dt.evaluation.gates import AtRandom, ByGroup, Chooser, Evenly
from m3dt.evaluation.load_agent import agent_of
from m3dt.evaluation.policies import AgentPolicy
from m3dt.runs import MAIN
from m3dt.runs.assemble import build_experts, expert_numbers
from m3dt.runs.registry import Registry
from m3dt.utils.errors import UserError

RULES = ("oracle", "even", "random-expert")
"""Who acts in a task: its own group's expert, all experts with equal weights, one by chance."""


class ExpertsPolicy(AgentPolicy):
    """The backbone acts with experts that a rule chooses.

    One model holds all experts, so episodes of all tasks share its passes.

    Args:
        run: The run's folder.
        rules: As for `AgentPolicy`.
        device: Where the model goes.
        rule: One of `RULES`.
        tasks: As for `AgentPolicy`.

    Raises:
        UserError: The run has no experts, an expert was trained on another backbone, or, for the
            oracle, a task belongs to several of them.
    """

    def __init__(
        self,
        run: str | Path,
        rules: EvaluationConfig | None = None,
        device: str | torch.device = "cpu",
        rule: str = "oracle",
        tasks: Sequence[str] = (),
    ) -> None:
        registry, rules = Registry(run), rules or EvaluationConfig()
        self.experts = [entry for entry in registry.entries() if entry.kind == "expert"]
        if not self.experts:
            raise UserError(f"{run}: has no experts for '{rule}'. Run `m3dt stage2` first.")
        E = len(self.experts)
        chooser: Chooser
        if rule == "oracle":
            chooser = ByGroup(expert_numbers(str(run), self.experts), E, str(run))
        else:
            chooser = Evenly(E) if rule == "even" else AtRandom(E, rules.seed)
        self._acting = E if rule == "even" else 1
        root = registry.get("backbone", MAIN)
        model = build_experts(registry, root, self.experts)
        if rule == "even" and model.big_experts is not None:
            raise UserError("--models even: of big experts whose gates are held, one acts")
        super().__init__(
            agent_of(registry, root, root, self.experts, model, device), rules, rule, chooser, tasks
        )

    def check(self, task: str) -> None:
        """Refuse a task for which the rule has no expert, before any simulator starts."""
        if isinstance(self.chooser, ByGroup):
            self.chooser.check(task)

    def num_parameters(self) -> int:
        """Count the parameters that act in a task: the backbone's and its experts'."""
        banks = [mixture.experts for mixture in self.agent.model.mixtures]
        of_experts = sum(p.numel() for bank in banks for p in bank.parameters())
        acting = of_experts // len(self.experts) * self._acting
        return self.agent.model.num_parameters() - of_experts + acting
