"""When a training saves: every so many steps or minutes, on a signal, and at its end."""

from pathlib import Path
from time import monotonic
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from m3dt.config import StageConfig
from m3dt.engine.chunks import next_multiple
from m3dt.training.resume import checkpoint_path, kept_folder, remove_older
from m3dt.training.signals import Interrupted, Signals
from m3dt.utils.files import link_file


class CheckpointCallback(Checkpoint):
    """Writes the checkpoints of a stage and ends it on a signal.

    It saves at each multiple of `checkpoint_every` and of `keep_every`, once `checkpoint_minutes`
    have passed since the last save, once a signal has come, and when training ends.

    Lightning calls callbacks of this type after all others, so a checkpoint contains every record
    of its step. For the same reason it waits for a validation that is due at its step, and the last
    checkpoint waits for `on_train_end`.

    Args:
        folder: Of the checkpoints.
        config: Of the stage.
        signals: Tells which signal has come.
    """

    def __init__(self, folder: Path, config: StageConfig, signals: Signals) -> None:
        self.folder = folder
        self.config = config
        self.signals = signals
        self._saved_step = 0  # training starts from it, or it is the last that was saved
        self._saved_time = 0.0

    def next_step(self, step: int) -> int:
        """Return the next step after `step` at which this callback must be called."""
        periods = (self.config.checkpoint_every, self.config.keep_every)
        return min(filter(None, (next_multiple(step, period) for period in periods)))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_step, self._saved_time = trainer.global_step, monotonic()
        self.signals.catch()  # Lightning has set its own handlers by now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        if not (_is_over(trainer) or _validates_now(trainer)):
            self._end_step(trainer, pl_module.device)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (_is_over(trainer) or trainer.sanity_checking):
            self._end_step(trainer, pl_module.device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_step(trainer, pl_module.device, last=True)

    def _end_step(self, trainer: pl.Trainer, device: torch.device, last: bool = False) -> None:
        number, late = self._agreed(trainer, device)
        step = trainer.global_step
        due = self.next_step(step - 1) == step
        if (last or number or late or due) and step > self._saved_step:
            self._save(trainer)
        if number:
            raise Interrupted(number)

    def _agreed(self, trainer: pl.Trainer, device: torch.device) -> tuple[int, bool]:
        """Return a signal that any rank got, and whether the first one's clock says to save."""
        period = 60 * self.config.checkpoint_minutes
        late = trainer.is_global_zero and 0 < period <= monotonic() - self._saved_time
        if trainer.world_size == 1:
            return self.signals.received, late
        mine = torch.tensor([self.signals.received, int(late)], device=device)
        number, any_late = trainer.strategy.reduce(mine, reduce_op="max").tolist()
        return number, bool(any_late)

    def _save(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:  # a resumed training does not repeat the records so far
            logger.save()
        step, period = trainer.global_step, self.config.keep_every
        path = checkpoint_path(self.folder, step)
        if period and step % period == 0:
            # The kept one comes first: a kill between the two repeats both.
            kept = checkpoint_path(kept_folder(self.folder), step)
            trainer.save_checkpoint(kept)
            if trainer.is_global_zero:
                link_file(kept, path)
        else:
            trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            remove_older(self.folder)
        self._saved_step, self._saved_time = step, monotonic()


def _is_over(trainer: pl.Trainer) -> bool:
    """Tell whether no step follows; then `on_train_end` does."""
    stops = trainer.should_stop and trainer.fit_loop._can_stop_early
    return trainer.global_step >= trainer.max_steps or stops


def _validates_now(trainer: pl.Trainer) -> bool:
    """Tell whether a validation follows the current step.

    Resumed from a checkpoint that is older than the validation, Lightning would leave it out.
    """
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
