"""The dictionaries that an evaluation returns and writes as JSON."""

from __future__ import annotations

from typing import TypedDict


class TaskResult(TypedDict):
    """Scores of one task over its episodes."""

    score: float
    """Mean normalized score, 0 to 100."""
    ci95: list[float]
    """Lower and upper end of the score's 95 % interval."""
    return_mean: float
    return_std: float
    success_rate: float
    """0 to 1."""
    episodes: int
    env_steps: int


class ScoreSummary(TypedDict):
    """Scores of several tasks, each weighing the same."""

    score: float
    ci95: list[float]
    domains: dict[str, float]
    tasks: dict[str, TaskResult]


class PolicyResult(ScoreSummary):
    """Scores of a policy and the conditions they were measured under."""

    episodes: int
    """Episodes per task."""
    env_steps_per_second: float
    seed: int
    versions: dict[str, str]


class EvaluationResult(PolicyResult):
    """Scores of a trained agent; what `m3dt.evaluate` returns."""

    run: str
    method: str
    num_parameters: int


class ModelInfo(TypedDict):
    """What identifies a model of a run in its results."""

    method: str
    num_parameters: int
    weights: str | list[str]
    """Hash of the weights; an oracle has one per expert."""
    step: int


class RunResult(EvaluationResult):
    """Scores of a model of a run; what `m3dt evaluate --json` writes."""

    weights: str | list[str]
    step: int
