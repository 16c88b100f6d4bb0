"""Evaluate a model in the simulators while it trains (figure 7)."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from rich.console import Console

from m3dt.config import EvaluationConfig
from m3dt.data import M3DTDataModule, TaskContext
from m3dt.plots.tensorboard import score_scalars
from m3dt.runs.entries import Entry
from m3dt.stages import Stage, evaluation_mode

from .recorder import Recorder


class RolloutCallback(Recorder):
    """Evaluates the model during training; off unless a configuration turns it on.

    Training is bit-identical with and without it. It serves stages 1 and 3 and baselines; the
    experts of stage 2 have no router to act together.

    Logged: `eval/score`, `eval/<domain>/score`, `eval/task/<task>`.

    Example, in a configuration::

        callbacks:
          rollouts:
            class: m3dt.callbacks.RolloutCallback
            stages: [stage1, stage3, baseline]
            every_n_steps: 1000
            episodes: 2

    Args:
        every_n_steps: Optimiser steps between evaluations.
        episodes: Episodes per task.
        tasks: Names of tasks; by default all of the dataset's.
        workers: Processes that step environments; 0 means one per available CPU.
    """

    before_training = False
    on_every_rank = False

    def __init__(
        self,
        every_n_steps: int = 50_000,
        episodes: int = 1,
        tasks: Sequence[str] = (),
        workers: int = 0,
    ) -> None:
        super().__init__(every_n_steps)
        self.tasks = tuple(tasks)
        tile = min(episodes, EvaluationConfig.tile)
        self.rules = EvaluationConfig(episodes=episodes, tile=tile, workers=workers)
        self._scalars: dict[str, float] = {}

    def metrics(self) -> dict[str, Any]:
        """Return the scores of all evaluations, for the registry."""
        return {"rollouts": self.history} if self.history else {}

    def record(
        self, trainer: pl.Trainer, stage: Stage, data: M3DTDataModule
    ) -> dict[str, Any] | None:
        """Evaluate on the first rank, if the model can act."""
        # Imported here because they use the shortcuts, without which training must work, too.
        from m3dt.evaluation import Agent, AgentPolicy, evaluate_policy

        routed = all(mixture.router is not None for mixture in stage.model.mixtures)
        if not (routed and trainer.is_global_zero):
            return None
        context = TaskContext.from_store(data.store, data.loader, data.model)
        entry = _entry_in_training(stage, context, trainer.global_step)
        masks = getattr(stage, "masks", None)
        agent = Agent(stage.model, entry, context, run="", masks=masks)
        tasks = self.tasks or context.tasks
        with evaluation_mode(stage):
            silent = Console(quiet=True)  # the progress bar of training stays on the screen
            result = evaluate_policy(AgentPolicy(agent, self.rules), tasks, self.rules, silent)
        self._scalars = score_scalars(result)
        return {"score": result["score"], "domains": result["domains"]}

    def scalars(self) -> dict[str, float]:
        """Return the newest scores in total, by domain and, unless it was resumed, by task."""
        return self._scalars or score_scalars({**self.history[-1], "tasks": {}})


def _entry_in_training(stage: Stage, context: TaskContext, step: int) -> Entry:
    """Return an entry for the stage's current weights, which no registry holds yet."""
    return Entry(
        kind="baseline",
        name="training",
        settings={},
        parents={},
        dataset="",
        seed=stage.seed,
        step=step,
        metrics={},
        tasks=list(context.tasks),
    )
