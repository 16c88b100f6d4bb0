"""Gates that are chosen once per episode, before its first action, and held.

Letters: B episodes, M mixtures of the model, E experts, P prompt steps, N tasks, S state dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m3dt.config import EvaluationConfig
from m3dt.data.batch import Segment
from m3dt.evaluation.agent import Agent
from m3dt.evaluation.passes import PassRunner
from m3dt.models import PromptDT
from m3dt.models.routing import LargestGates, Selection, select, with_routers
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError


class Chooser(ABC):
    """Chooses the experts of episodes; `experts` says how many act, as for `select`."""

    def __init__(self, experts: str) -> None:
        self.experts = experts

    def __call__(
        self, runner: PassRunner, prompt: Segment, task: str, episodes: tuple[int, ...]
    ) -> Selection:
        """Return the experts of episodes of one task, given their prompts, (B, P, ...)."""
        gates = self.gates(runner, prompt, task, episodes)
        mixtures = len(runner.model.mixtures)
        return select(gates.expand(-1, mixtures, -1), self.experts)

    @abstractmethod
    def gates(
        self, runner: PassRunner, prompt: Segment, task: str, episodes: tuple[int, ...]
    ) -> Tensor:
        """Return gates, (B, M, E), or (B, 1, E) for all mixtures alike."""


class ByPrompt(Chooser):
    """The agent's router by prompts chooses."""

    def __init__(self, agent: Agent, experts: str) -> None:
        super().__init__(experts)
        self.agent = agent

    def gates(
        self, runner: PassRunner, prompt: Segment, task: str, episodes: tuple[int, ...]
    ) -> Tensor:
        return self.agent.gates(prompt, task)[:, None]


class ByAverage(Chooser):
    """The gates of the model's token routers, averaged over the prompt's tokens."""

    def gates(
        self, runner: PassRunner, prompt: Segment, task: str, episodes: tuple[int, ...]
    ) -> Tensor:
        return runner.prompt_gates(prompt)


class ByGroup(Chooser):
    """The expert that was trained on the task: the oracle of figure 8."""

    def __init__(self, numbers: Mapping[str, int], num_experts: int, run: str) -> None:
        super().__init__("1")
        self.numbers = numbers
        self.num_experts = num_experts
        self.run = run

    def check(self, task: str) -> None:
        if task not in self.numbers:
            raise UserError(f"{self.run}: no expert was trained on {task}")

    def gates(
        self, runner: PassRunner, prompt: Segment, task: str, episodes: tuple[int, ...]
    ) -> Tensor:
        self.check(task)
        number = torch.tensor(self.numbers[task], device=runner.device)
        return F.one_hot(number, self.num_experts).float().expand(len(episodes), 1, -1)


class Evenly(Chooser):
    """All experts weigh the same: a control."""

    def __init__(self, num_experts: int) -> None:
        super().__init__("all")
        self.num_experts = num_experts

    def gates(
        self, runner: PassRunner, prompt: Segment, task: str, episodes: tuple[int, ...]
    ) -> Tensor:
        even = torch.full((len(episodes), 1, self.num_experts), 1 / self.num_experts)
        return even.to(runner.device)


class AtRandom(Chooser):
    """One expert by chance, keyed by (seed, task, episode): a control."""

    def __init__(self, num_experts: int, seed: int) -> None:
        super().__init__("1")
        self.num_experts = num_experts
        self.seed = seed

    def gates(
        self, runner: PassRunner, prompt: Segment, task: str, episodes: tuple[int, ...]
    ) -> Tensor:
        keys = [np.random.SeedSequence((self.seed, 3, *task.encode(), e)) for e in episodes]
        drawn = [int(np.random.default_rng(key).integers(self.num_experts)) for key in keys]
        numbers = torch.tensor(drawn, device=runner.device)
        return F.one_hot(numbers, self.num_experts).float()[:, None]


def chooser_of(agent: Agent, rules: EvaluationConfig) -> Chooser | None:
    """Return what chooses an agent's experts once per episode; None where its routers do it alone.

    Raises:
        UserError: The rules ask for what the agent cannot do.
    """
    model, experts = agent.model, rules.experts
    _check_number(agent, experts)
    if model.prompt_router is not None:
        if rules.gates == "token":
            raise UserError(
                f"evaluation.gates=token: {agent.entry.key} chooses by the prompt, once per "
                "episode. Leave evaluation.gates out."
            )
        return ByPrompt(agent, _number(model, experts, "auto"))
    if rules.gates != "episode" or not _has_routers(model):
        return None
    return ByAverage(_number(model, experts, "all"))


def way_of(agent: Agent, rules: EvaluationConfig) -> str:
    """Return a word for how an agent's experts are chosen, empty for its default or no choice."""
    model = agent.model
    if model.prompt_router is not None:
        return "" if rules.experts == "auto" else rules.experts
    if not _has_routers(model):
        return ""
    words = ["episode"] if rules.gates == "episode" else []
    return "-".join([*words, *([] if rules.experts in ("auto", "all") else [rules.experts])])


def _check_number(agent: Agent, experts: str) -> None:
    model = agent.model
    if experts in ("auto", "all") or (model.prompt_router is None and not _has_routers(model)):
        return
    E = model.mixtures[0].num_experts
    if int(experts) > E:
        raise UserError(
            f"evaluation.experts={experts}: {agent.entry.key} chooses among "
            f"{counted(E, 'expert')}. Give a number up to that, or all."
        )


def _number(model: PromptDT, experts: str, default: str) -> str:
    """Return how many experts act; of big experts, one."""
    if model.big_experts is None:
        return default if experts == "auto" else experts
    if experts not in ("auto", "1"):
        raise UserError(
            f"evaluation.experts={experts}: of big experts whose gates are held, one acts. Set "
            "evaluation.experts=1."
        )
    return "1"


def with_largest_gates(model: PromptDT, rules: EvaluationConfig) -> PromptDT:
    """Return a copy whose token routers keep `evaluation.experts` gates, or the model itself."""
    if rules.gates == "episode" or rules.experts in ("auto", "all") or not _has_routers(model):
        return model
    k = int(rules.experts)
    kept = [LargestGates(m.router, min(k, m.num_experts)) for m in model.mixtures if m.router]
    return with_routers(model, kept)


def _has_routers(model: PromptDT) -> bool:
    return any(mixture.router is not None for mixture in model.mixtures)
