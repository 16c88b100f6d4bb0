"""Callbacks that do what a test asks for at given moments of a training.

Runs name them by their dotted paths, such as `moments.Moments`.
"""

import os
import time
from typing import ClassVar

import lightning.pytorch as pl

MOMENTS = "callbacks.moments={class: moments.Moments}"


class Moments(pl.Callback):
    """Calls functions of the test, in its own process."""

    actions: ClassVar[dict] = {}  # by hook and step

    def deciding_settings(self):
        return {}

    def next_step(self, step):
        return min((moment for _, moment in self.actions if moment > step), default=None)

    def _act(self, hook, trainer):
        self.actions.get((hook, trainer.global_step), lambda trainer: None)(trainer)

    def on_train_start(self, trainer, stage):
        self._act("train start", trainer)

    def on_train_batch_start(self, trainer, *arguments):
        self._act("start", trainer)

    def on_train_batch_end(self, trainer, *arguments):
        self._act("end", trainer)

    def on_train_end(self, trainer, stage):
        self._act("train end", trainer)


class SignalAt(pl.Callback):
    """Sends a signal to its own process at the end of a step.

    Args:
        step: Number of the step.
        number: Of the signal.
        rank: The one that gets it.
        group: Whether all processes of its group get it.
    """

    def __init__(self, step, number, rank=0, group=False):
        self.step, self.number, self.rank, self.group = step, number, rank, group

    def deciding_settings(self):
        return {}

    def next_step(self, step):
        return self.step if self.step > step else None

    def on_train_batch_end(self, trainer, *arguments):
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            if self.group:
                os.killpg(0, self.number)
            else:
                os.kill(os.getpid(), self.number)


class CheckpointClock(pl.Callback):
    """Writes a line per checkpoint: step, CPU seconds of the training thread, seconds, bytes.

    Args:
        file: It is appended to.
    """

    def __init__(self, file):
        self.file = file

    def deciding_settings(self):
        return {}

    def next_step(self, step):
        return None

    def setup(self, trainer, pl_module, stage):
        save = trainer.save_checkpoint

        def timed(path, *arguments, **more):
            started = time.thread_time(), time.monotonic()
            save(path, *arguments, **more)
            seconds = time.thread_time() - started[0], time.monotonic() - started[1]
            with open(self.file, "a") as lines:
                print(trainer.global_step, *seconds, os.path.getsize(path), file=lines)

        trainer.save_checkpoint = timed
