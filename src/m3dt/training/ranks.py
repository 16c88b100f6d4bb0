"""Which of a training's processes this one is: decided from the settings, and believed by all.

Launchers leave variables behind (an allocation's shell, a container), so that a process may look
like a rank of a training that it does not belong to. The number of processes that the settings ask
for decides; variables that contradict it are refused or left out.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist
from filelock import FileLock, Timeout
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only

from m3dt.config import Config
from m3dt.training.fingerprint import device_settings
from m3dt.utils.counts import counted
from m3dt.utils.errors import RunError, UserError

_PATIENCE = 300.0  # seconds for which no first rank may be there
_LOCK = ".first-rank.lock"  # the first rank holds it, in the run's folder


class Place(NamedTuple):
    """The place of this process among those of a training."""

    rank: int
    size: int
    detected: bool  # whether Lightning finds the place itself, from the variables of a launcher


def place_of(config: Config) -> Place:
    """Return the place of this process in a training.

    Raises:
        UserError: Variables of the environment contradict the settings.
    """
    size = num_processes(config)
    if size == 1:
        single = os.environ.get("SLURM_NTASKS") == "1" and "WORLD_SIZE" not in os.environ
        return Place(0, 1, detected=single)  # SLURM's requeueing needs Lightning to know of it
    for total, rank in (("WORLD_SIZE", "RANK"), ("SLURM_NTASKS", "SLURM_PROCID")):
        if total not in os.environ or (total, os.environ[total]) == ("SLURM_NTASKS", "1"):
            continue  # a task of its own starts the others itself
        if rank == "RANK" and rank not in os.environ:  # Lightning started this process
            return Place(_checked(config, total, size, _lightning_rank(config, size)), size, False)
        return Place(_checked(config, total, size, _number(config, rank)), size, True)
    if "LOCAL_RANK" in os.environ:
        raise _contradiction(config, "LOCAL_RANK", size)
    if (config.trainer.get("num_nodes") or 1) != 1:
        raise UserError(
            f"{config.sources.of('trainer.num_nodes')}: trainer.num_nodes="
            f"{config.trainer['num_nodes']}: no launcher started this process. Start it on each "
            "node by torchrun or srun."
        )
    return Place(0, size, detected=False)  # Lightning starts the others


def num_processes(config: Config) -> int:
    """Return how many processes the settings ask for; 1 for what Lightning will refuse."""
    asked, trainer = device_settings(config), config.trainer
    automatic = str(trainer.get("devices", 1)) in ("auto", "-1")
    devices = 1 if automatic and str(asked["accelerator"]) == "cpu" else asked["devices"]
    nodes = trainer.get("num_nodes") or 1
    numbers = all(isinstance(number, int) and number > 0 for number in (devices, nodes))
    return int(devices) * int(nodes) if numbers else 1


def _lightning_rank(config: Config, size: int) -> int:
    per_node = size // (config.trainer.get("num_nodes") or 1)
    node = _number(config, "NODE_RANK") if "NODE_RANK" in os.environ else 0
    return node * per_node + _number(config, "LOCAL_RANK")


def _number(config: Config, name: str) -> int:
    word = os.environ.get(name, "")
    if not word.isdecimal():
        raise _contradiction(config, name, num_processes(config))
    return int(word)


def _checked(config: Config, total: str, size: int, rank: int) -> int:
    if _number(config, total) != size or rank >= size:
        raise _contradiction(config, total, size)
    return rank


def _contradiction(config: Config, name: str, size: int) -> UserError:
    source = config.sources.of("trainer.devices", "trainer.num_nodes")
    value = os.environ.get(name)
    found = f"{name} is {'not set' if value is None else value}"
    return UserError(
        f"{source}: trainer.devices={config.trainer.get('devices', 1)} asks for "
        f"{counted(size, 'process')}, "
        f"but in the environment {found}. Unset the variables of launchers, or let the launcher "
        f"start {counted(size, 'process')}."
    )


@contextmanager
def taking_place(config: Config) -> Iterator[None]:
    """Take this process's place: Lightning and `is_first_rank` believe it from now on.

    The first of several ranks shows the others that it is there until the block ends.

    Raises:
        UserError: Variables of the environment contradict the settings.
    """
    place = place_of(config)
    rank_zero_only.rank = place.rank  # type: ignore[attr-defined]
    if place.size == 1 or place.rank:
        yield
        return
    folder = Path(config.run)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=-1)  # others hold it for an instant at most
    with lock:
        yield


class _LastingEnvironment(LightningEnvironment):
    """Keeps the variables of the processes that Lightning started, for the stage that follows."""

    def teardown(self) -> None:
        """Leave WORLD_SIZE, without which the next stage could not tell its place."""


def launcher_plugins(config: Config) -> list[LightningEnvironment]:
    """Return what keeps Lightning's Trainer from believing variables that are not of it."""
    return [] if place_of(config).detected else [_LastingEnvironment()]


def is_first_rank() -> bool:
    """Tell whether this process writes the files that all ranks share."""
    return getattr(rank_zero_only, "rank", 0) == 0


def wait_for(condition: Callable[[], bool], run: Path) -> None:
    """Wait for work that the first rank does for all.

    Raises:
        RunError: There is no first rank, or none any more.
    """
    parent, seen = os.getppid(), time.monotonic()
    while not condition():
        if os.getppid() != parent:
            raise RunError("the first process has ended.")
        if _first_rank_is_there(run):
            seen = time.monotonic()
        elif time.monotonic() - seen > _PATIENCE:
            raise RunError(
                f"{run}: this process is not the first rank, and no first rank is running here. "
                "Start all ranks at once, or unset RANK and SLURM_PROCID."
            )
        time.sleep(0.5)


def _first_rank_is_there(run: Path) -> bool:
    if not (run / _LOCK).exists():
        return False
    try:
        with FileLock(run / _LOCK, timeout=0):
            return False
    except Timeout:
        return True


def wait_for_all() -> None:
    """Wait until every rank gets here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
