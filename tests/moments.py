"""A callback that does what a test asks for at given moments of a training."""

from typing import ClassVar

import lightning.pytorch as pl


class Moments(pl.Callback):
    """Runs name it by its dotted path, `moments.Moments`."""

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
