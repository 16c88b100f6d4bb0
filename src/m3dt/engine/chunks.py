"""How many optimiser steps one call of `training_step` takes.

Between two calls, Lightning runs callbacks, writes logs and looks for signals, which takes longer
than a small step. A call takes about a second, and never runs past a step at which something else
must happen.
"""

from collections.abc import Callable, Iterable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint, Timer

from m3dt.engine.hooks import INNER_HOOKS, STEP_HOOKS, has_hook

_SECONDS = 0.75  # of a call
NextStep = Callable[[int], int | None]


def next_multiple(step: int, every: int) -> int | None:
    """Return the next multiple of `every` after a step, or None if `every` is 0."""
    return step - step % every + every if every else None


class ChunkPlan:
    """Plans the lengths of chunks.

    Args:
        trainer: Its callbacks say when they must be called, by `next_step(step)`: the next such
            step after a step, or None. One that does not, but has a hook for each step, is called
            after every step.
        steps_per_call: Most steps of a chunk; 0 means as many as take about a second.
        largest: Most steps that the data can prepare ahead.
        further: What else must happen at certain steps.
    """

    def __init__(
        self, trainer: pl.Trainer, steps_per_call: int, largest: int, further: Iterable[NextStep]
    ) -> None:
        self.max_steps = trainer.max_steps
        self.automatic = steps_per_call == 0
        self.most = min(largest, steps_per_call or largest)
        self._next_steps = [*further, *map(_next_step_of, getattr(trainer, "callbacks", ()))]
        limit = trainer.limit_train_batches
        if isinstance(limit, int) or limit != 1.0:
            self.most = 1  # it counts calls
        self._current = 1 if self.automatic else self.most

    def __call__(self, step: int) -> int:
        """Return the number of steps in the chunk that begins at a step."""
        stops = [stop for stop in (find(step) for find in self._next_steps) if stop is not None]
        return max(1, min([self.max_steps, step + self._current, *stops]) - step)

    def adapt(self, seconds: float, steps: int) -> None:
        """Learn from the time that a chunk took; chunks at most double their length."""
        if self.automatic:
            fitting = int(_SECONDS * steps / max(seconds, 1e-9))
            self._current = max(1, min(2 * self._current, fitting, self.most))


def _next_step_of(callback: pl.Callback) -> NextStep:
    declared = getattr(callback, "next_step", None)
    if callable(declared):
        return declared
    if isinstance(callback, ModelCheckpoint):
        return lambda step: next_multiple(step, callback._every_n_train_steps)
    if isinstance(callback, Timer) or not has_hook(callback, *STEP_HOOKS, *INNER_HOOKS):
        return lambda step: None
    return lambda step: step + 1
