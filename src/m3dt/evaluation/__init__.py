"""Rollouts in the simulators, scores and their confidence intervals."""

import os

# Intel's MKL otherwise lets the last bits of a product's row depend on its place in the batch, and
# with them a score on who shares a forward pass. Read at the process's first product.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

from m3dt.evaluation.agent import Agent, load
from m3dt.evaluation.policies import AgentPolicy, OraclePolicy, Policy, RandomPolicy
from m3dt.evaluation.scores import Episode, summarize
from m3dt.evaluation.scoring import evaluate, evaluate_policy
from m3dt.evaluation.video import animation, film

__all__ = [
    "Agent",
    "AgentPolicy",
    "OraclePolicy",
    "Episode",
    "Policy",
    "RandomPolicy",
    "animation",
    "evaluate",
    "evaluate_policy",
    "film",
    "load",
    "summarize",
]
