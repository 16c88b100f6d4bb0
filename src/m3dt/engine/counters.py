"""Lightning's counters under steps that Lightning does not see."""

import lightning.pytorch as pl


def count_steps(trainer: pl.Trainer, steps: int) -> None:
    """Count the optimiser steps of one call of `training_step`, of which there were one or more.

    Lightning counts calls, and steps of its own wrapper of the optimiser. Here both count optimiser
    steps, so that `global_step`, `max_steps`, `val_check_interval` and the step of logged values
    mean optimiser steps. It reads private fields because Lightning offers no others.
    """
    loop = trainer.fit_loop.epoch_loop
    taken, calls = loop.manual_optimization.optim_step_progress, loop.batch_progress
    for counter in (taken.total, taken.current):
        counter.ready += steps
        counter.completed += steps
    for counter in (calls.total, calls.current):
        for name in ("ready", "started", "processed", "completed"):
            setattr(counter, name, getattr(counter, name) + steps - 1)  # Lightning counts one
    loop._batches_that_stepped = loop.global_step
