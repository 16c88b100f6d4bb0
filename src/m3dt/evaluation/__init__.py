"""Rollouts in the simulators, scores and their confidence intervals."""

from m3dt.evaluation.actor import Actor
from m3dt.evaluation.agent import Agent
from m3dt.evaluation.evaluator import evaluate, evaluate_policy
from m3dt.evaluation.load_agent import load
from m3dt.evaluation.oracle import ExpertsPolicy
from m3dt.evaluation.policies import AgentPolicy, IdlePolicy, Policy, RandomPolicy
from m3dt.evaluation.scores import Episode, EvaluationResult, TaskResult, summarize
from m3dt.evaluation.video import animation, film

__all__ = [
    "Actor",
    "Agent",
    "AgentPolicy",
    "Episode",
    "EvaluationResult",
    "ExpertsPolicy",
    "IdlePolicy",
    "Policy",
    "RandomPolicy",
    "TaskResult",
    "animation",
    "evaluate",
    "evaluate_policy",
    "film",
    "load",
    "summarize",
]
