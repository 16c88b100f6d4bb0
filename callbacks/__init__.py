"""Callbacks observe training and may stop it, but never change it."""

from .expert_conflict import ExpertConflictCallback
from .gradient_conflict import GradientConflictCallback
from .progress import ProgressCallback
from .rollouts import RolloutCallback
from .router_usage import RouterUsageCallback

__all__ = [
    "ExpertConflictCallback",
    "GradientConflictCallback",
    "ProgressCallback",
    "RolloutCallback",
    "RouterUsageCallback",
]
