"""A stage's folder of checkpoints: its lock, and what an interrupted training left in it.

The folder lives from the first step of a stage until its weights are registered.
"""

import errno
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from rich.console import Console

from m3dt.config import StageConfig
from m3dt.training.fingerprint import differences
from m3dt.training.ranks import is_first_rank, wait_for_all
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError
from m3dt.utils.files import (
    atomic_path,
    free_space,
    reading,
    remove_temporaries,
    sole_writer,
    write_json,
)

SETTINGS = "settings.json"
FORCED = "forced"  # key of settings that changed during a training, here and in its metrics
_RESUMABLE = 2  # complete checkpoints of a training; a third may be in the making
_KEPT = "kept"  # folder of the checkpoints that stay


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name, fsyncs it and renames it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        try:
            with atomic_path(Path(path)) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:  # torch reports a full disk by the latter
            raise UserError(
                f"{path}: cannot be written ({error}). The checkpoint before it is whole: free "
                "space, and the same command goes on from there."
            ) from None


@contextmanager
def training_folder(folder: Path) -> Iterator[Path]:
    """Lock a stage's folder until its models are registered; then all ranks leave together.

    A finished training deletes the folder; an interrupted one keeps it. Checkpoints of `keep_every`
    are in `kept_folder`, which stays.

    Raises:
        UserError: Another process trains the same.
    """
    with ExitStack() as held:
        if is_first_rank():
            held.enter_context(sole_writer(folder))
            remove_temporaries(folder)
            remove_temporaries(kept_folder(folder))
        yield folder
        if is_first_rank():
            shutil.rmtree(folder, ignore_errors=True)
        wait_for_all()


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file of the checkpoint of a step."""
    return folder / f"step{step}.ckpt"


def kept_folder(folder: Path) -> Path:
    """Return the folder of a stage's checkpoints that stay; training does not resume from them."""
    return folder.parent / _KEPT / folder.name


def interrupted_stages(checkpoints: Path) -> list[str]:
    """Return the names of the folders that interrupted trainings of a run have left."""
    return sorted(p.name for p in checkpoints.glob("*") if p.is_dir() and p.name != _KEPT)


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint, from its name."""
    return int(checkpoint.stem.removeprefix("step"))


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint whose content is whole, or None.

    Raises:
        UserError: The system refuses to read one: going on without it would lose its steps.
    """
    for path in reversed(_checkpoints(folder)):
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is None:
                    return path
        except OSError as error:
            if error.errno != errno.EINVAL:  # damage names a place before the file's beginning
                with reading(path):
                    raise
        except Exception:  # zipfile has many errors for a file that is damaged
            continue
    return None


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint by its name, whether it is whole or not; or 0."""
    return max(map(step_of, _checkpoints(folder)), default=0)


def remove_older(folder: Path) -> None:
    """Delete all checkpoints but the newest two, also those of earlier processes."""
    for older in _checkpoints(folder)[:-_RESUMABLE]:
        older.unlink(missing_ok=True)


def _checkpoints(folder: Path) -> list[Path]:
    found = (path for path in folder.glob("step*.ckpt") if path.stem[4:].isdigit())
    return sorted(found, key=step_of)


def started_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of an interrupted run of a stage, or None.

    Raises:
        UserError: They cannot be read.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return None
    found = None
    with suppress(ValueError):
        found = json.loads(path.read_text())
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged. Delete {folder} to start the stage over.")
    return found


def check_resume(
    folder: Path, settings: dict[str, Any], force: bool, console: Console
) -> list[str]:
    """Record what the weights depend on, or compare it with an interrupted training's record.

    Args:
        folder: Of the stage's checkpoints.
        settings: What the weights depend on; an interrupted run must have had the same.
        force: Whether it goes on although some differ.
        console: Where messages go.

    Returns:
        What was forced, now and before.

    Raises:
        UserError: Settings differ.
    """
    found = started_settings(folder)
    forced = found.pop(FORCED, []) if found is not None else []
    if found is not None and found != settings:
        changed = differences(found, settings)
        shaped = [
            k for k in ("model", "tasks", "moe", "experts") if found.get(k) != settings.get(k)
        ]
        if force and shaped:
            raise UserError(
                f"{folder}: force=true cannot go on with another {shaped[0]}: {changed}. Delete "
                "the folder to start over, or give another run=FOLDER."
            )
        if not force:
            raise UserError(
                f"{folder}: an interrupted run had other settings: {changed}. Repeat them to "
                "resume, delete the folder to start over, or give another run=FOLDER. force=true "
                "resumes all the same, which is recorded with the model."
            )
        console.print(f"{folder.name} goes on with other settings: {changed}", style="yellow")
        forced = [*forced, changed]
    if is_first_rank() and found != settings:
        write_json(folder / SETTINGS, {**settings, **({FORCED: forced} if forced else {})})
    return forced


def check_space(folder: Path, model: torch.nn.Module, config: StageConfig, start: int) -> None:
    """Refuse to start where a training's checkpoints would not fit.

    Args:
        folder: Of the checkpoints.
        model: Its trainable weights are saved.
        config: Of the stage.
        start: Step at which training begins.

    Raises:
        UserError: The disk has too little space.
    """
    # Weights, two moments, and the weights at the peak of conflict.
    size = 4 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    wanted, free = _RESUMABLE + 1 - len(_checkpoints(folder)[-_RESUMABLE:]), free_space(folder)
    if config.keep_every:
        wanted += config.max_steps // config.keep_every - start // config.keep_every
    if free < wanted * size:
        raise UserError(
            f"{folder}: {free / 2**20:,.0f} MiB are free, but checkpoints take "
            f"{counted(wanted, 'time')} {size / 2**20:,.1f} MiB. "
            "Free space, or give run=FOLDER on another disk."
        )
