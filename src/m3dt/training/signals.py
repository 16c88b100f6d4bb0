"""How a training ends early: signals save first, foreign exceptions become one message."""

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from m3dt.training.resume import checkpoint_path
from m3dt.utils.errors import UserError


class Interrupted(Exception):
    """A signal asked the process to end, and a checkpoint is written.

    Attributes:
        signal: SIGTERM or SIGINT.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class SaveOnSignal(pl.Callback):
    """Writes a checkpoint between two steps once a signal has come, then raises `Interrupted`.

    A second Ctrl-C does not wait for the step. All ranks leave, whichever of them got the signal.
    Whoever runs the trainer calls `restore` afterwards in any case, and looks at `received`.

    Args:
        folder: Where checkpoints are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.received = 0
        # As they are before Lightning sets its own, which it means to take back too.
        self._owners = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has set its own handlers by now; these take their place.
        if threading.current_thread() is threading.main_thread():
            for number in self._owners:
                signal.signal(number, self._receive)

    def restore(self) -> None:
        """Put back the handlers that were there before."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._owners.items():
                signal.signal(number, handler)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        number = self._agreed(trainer, pl_module.device)
        if number:
            trainer.save_checkpoint(checkpoint_path(self.folder, trainer.global_step))
            raise Interrupted(number)

    def _agreed(self, trainer: pl.Trainer, device: torch.device) -> int:
        if trainer.world_size == 1:
            return self.received
        mine = torch.tensor(self.received, device=device)
        return int(trainer.strategy.reduce(mine, reduce_op="max"))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


@contextmanager
def plain_exits(
    trainer: pl.Trainer,
    signals: SaveOnSignal,
    run: str,
    checkpoint: Path | None,
    console: Console,
) -> Iterator[None]:
    """Turn what ends `trainer.fit` early into our errors and exit codes.

    Args:
        trainer: The trainer.
        signals: Its callback.
        run: Folder of the run, for messages.
        checkpoint: From which training resumes, if it does.
        console: Receives the message of a signal.

    Raises:
        UserError: The checkpoint is not ours, or the disk is full.
    """
    try:
        yield
    except Interrupted as interrupted:
        place = f"{signals.folder.name}: saved at step {trainer.global_step}"
        console.print(f"{place} on {interrupted}.")
        _leave(interrupted.signal)
    except UnpicklingError:  # it would execute something, or is not one of ours
        raise UserError(
            f"{checkpoint}: not a checkpoint of m3dt. Delete it, or give another run=FOLDER."
        ) from None
    except SIGTERMException:  # before the first step
        raise SystemExit(128 + signal.SIGTERM) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{run}: {error.strerror}. The newest checkpoint is whole: free space, and the same "
            "command goes on from there."
        ) from None
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into exit code 1
            raise KeyboardInterrupt from None
        raise
    finally:
        signals.restore()
    if signals.received:  # after the last step: training is over, but what follows it is not
        _leave(signals.received)


def _leave(number: int) -> NoReturn:
    if number == signal.SIGTERM:
        raise SystemExit(128 + signal.SIGTERM) from None
    raise KeyboardInterrupt from None
