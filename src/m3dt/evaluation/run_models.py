"""Find the models of a run that a person names for an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from m3dt.config import BASELINES, Config
from m3dt.evaluation.agent import load
from m3dt.evaluation.policies import AgentPolicy, OraclePolicy, Policy, RandomPolicy
from m3dt.evaluation.results import ModelInfo
from m3dt.runs import MAIN, inference_device
from m3dt.runs.registry import Registry
from m3dt.tasks import tasks_of
from m3dt.utils.errors import UserError

_KINDS = ("backbone", "router", "expert", "baseline")


@dataclass(frozen=True)
class RunModel:
    """A model of a run: the policy that it acts by, and what identifies it in results."""

    policy: Policy[Any]
    info: ModelInfo

    @property
    def name(self) -> str:
        """Name in tables, such as `expert:2`."""
        return self.policy.name

    @property
    def file_name(self) -> str:
        """Name in file names, without suffix."""
        return self.name.replace(":", "-")


def run_model(config: Config, name: str) -> RunModel:
    """Load a model of a run.

    Args:
        config: The experiment.
        name: `random`, `backbone`, `router`, `oracle`, `expert:K` or `baseline:METHOD`; empty for
            the model of the configured method, as far as it is trained.

    Raises:
        UserError: The run lacks the model, or the name is unknown.
    """
    if name == "random":
        info: ModelInfo = {"method": "random", "num_parameters": 0, "weights": "", "step": 0}
        return RunModel(RandomPolicy(), info)
    if name == "oracle":
        return _oracle(config)
    if not name and config.method in BASELINES:
        name = f"baseline:{config.method}"
    kind, _, number = name.partition(":")
    if kind not in ("", *_KINDS):
        choices = "random, backbone, router, oracle, expert:K, baseline:METHOD"
        raise UserError(f"--models {name}: choose among {choices}")
    agent = load(config.run, kind or None, number or None, inference_device(config))
    entry = agent.entry
    label = entry.kind if entry.name == MAIN else f"{entry.kind}:{entry.name}"
    info = {
        "method": agent.method,
        "num_parameters": agent.model.num_parameters(),
        "weights": entry.hash,
        "step": entry.step,
    }
    return RunModel(AgentPolicy(agent, config.evaluation, label), info)


def _oracle(config: Config) -> RunModel:
    device = inference_device(config)
    entries = [entry for entry in Registry(config.run).entries() if entry.kind == "expert"]
    if not entries:
        raise UserError(f"{config.run}: has no experts for an oracle. Run `m3dt stage2` first.")
    experts = [load(config.run, "expert", entry.name, device) for entry in entries]
    policy = OraclePolicy(experts, config.evaluation)
    for task in tasks_of(config):
        policy.agent_for(task)  # refuses a task without expert before any simulator starts
    info: ModelInfo = {
        "method": "oracle",
        "num_parameters": experts[0].model.num_parameters(),
        "weights": [expert.entry.hash for expert in experts],
        "step": experts[0].entry.step,
    }
    return RunModel(policy, info)
