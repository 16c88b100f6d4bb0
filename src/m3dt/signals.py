"""SIGTERM and Ctrl-C in training: finish the step, save, leave."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch

CHECKPOINT = "step{step}.ckpt"


class Told(Exception):
    """The process was told to end, and everything is saved.

    Attributes:
        signal: SIGTERM or SIGINT.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class SaveOnSignal(pl.Callback):
    """Writes a checkpoint between two steps once a signal has come, then raises `Told`.

    A second Ctrl-C does not wait for the step. Ranks agree, whichever of them was told. Whoever
    runs the trainer calls `restore` behind it, whatever happened, and looks at `received`.

    Args:
        folder: Where checkpoints are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.received = 0
        # As they are before lightning sets its own, which it means to take back too.
        self._owners = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has set its own handlers by now; these take their place.
        if threading.current_thread() is threading.main_thread():
            for number in self._owners:
                signal.signal(number, self._receive)

    def restore(self) -> None:
        """Give the signals back to whom they belonged."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._owners.items():
                signal.signal(number, handler)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        told = self._agreed(trainer, pl_module.device)
        if told:
            path = self.folder / CHECKPOINT.format(step=trainer.global_step)
            trainer.save_checkpoint(path)
            raise Told(told)

    def _agreed(self, trainer: pl.Trainer, device: torch.device) -> int:
        if trainer.world_size == 1:
            return self.received
        mine = torch.tensor(self.received, device=device)
        return int(trainer.strategy.reduce(mine, reduce_op="max"))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
