"""Rollouts in the simulators, scores and their confidence intervals."""

from m3dt.evaluation.evaluate import evaluate, evaluate_policy
from m3dt.evaluation.policies import AgentPolicy, OraclePolicy, Policy, RandomPolicy
from m3dt.evaluation.scores import Episode, summarize
from m3dt.evaluation.video import animation, film

__all__ = [
    "AgentPolicy",
    "OraclePolicy",
    "Episode",
    "Policy",
    "RandomPolicy",
    "animation",
    "evaluate",
    "evaluate_policy",
    "film",
    "summarize",
]
