"""How a training ends early: signals let it save, foreign exceptions become one message."""

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import NoReturn

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from m3dt.utils.ending_signals import ENDING
from m3dt.utils.errors import RunError, UserError


class Interrupted(Exception):
    """A signal asked the process to end, and a checkpoint is written.

    Attributes:
        signal: One of `ENDING`.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Signals:
    """The signals of `ENDING` during a training.

    Training ends after the running step; a second Ctrl-C does not wait for it. A signal that is
    ignored stays so, as `nohup` asks. Whoever runs the trainer calls `restore` afterwards in any
    case, and looks at `received`.

    Attributes:
        received: The last signal that came, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        # As they are before Lightning sets its own, which it means to take back too.
        handlers = {n: signal.getsignal(n) for n in ENDING}
        self._owners = {n: h for n, h in handlers.items() if h != signal.SIG_IGN}

    def catch(self) -> None:
        """Replace the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in self._owners:
                signal.signal(number, self._receive)

    def restore(self) -> None:
        """Put back the handlers that were there before."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._owners.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


@contextmanager
def plain_exits(
    trainer: pl.Trainer,
    signals: Signals,
    run: str,
    stage: str,
    checkpoint: Path | None,
    console: Console,
) -> Iterator[None]:
    """Turn what ends `trainer.fit` early into our errors and exit codes.

    Args:
        trainer: The trainer.
        signals: Those that reach it.
        run: Folder of the run, for messages.
        stage: Name of the stage, for messages.
        checkpoint: From which training resumes, if it does.
        console: Receives the message of a signal.

    Raises:
        UserError: The checkpoint is not ours, or the disk is full.
        RunError: A process that prepares batches died.
    """
    try:
        yield
    except Interrupted as interrupted:
        console.print(f"{stage}: saved at step {trainer.global_step} on {interrupted}.")
        _leave(interrupted.signal)
    except UnpicklingError:  # it would execute something, or is not one of ours
        raise UserError(
            f"{checkpoint}: not a checkpoint of m3dt. Delete it, or give another run=FOLDER."
        ) from None
    except SIGTERMException:  # before the first step
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as leaving:
        if trainer.interrupted and leaving.code == 1:  # Lightning turns Ctrl-C into it
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        raise _plain(error, run, stage) from None
    finally:
        signals.restore()
    if signals.received:  # after the last step: training is over, but what follows it is not
        _leave(signals.received)


def _plain(error: Exception, run: str, stage: str) -> Exception:
    """Return our error for one of the loader's processes or of the disk, and any other as it is."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{run}: {error.strerror}. The newest checkpoint is whole: free space, and the same "
            "command goes on from there."
        )
    reason = str(error).strip().splitlines() or [""]
    if isinstance(error, UserError) and reason[0].startswith("Caught UserError in DataLoader"):
        return UserError(reason[-1].partition(": ")[2])
    if "DataLoader worker" in reason[0]:  # the cause is in the last line, after its traceback
        return RunError(
            f"{stage}: a process that prepares batches died: {reason[-1]} The same command goes "
            "on from the newest checkpoint; where memory is short, set loader.num_workers=0."
        )
    return error


def _leave(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt from None
    raise SystemExit(128 + number) from None
