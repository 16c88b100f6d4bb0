"""Stage 2 on several devices of one machine: one process per device trains its own experts.

Experts do not depend on each other, so the processes exchange nothing.
"""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence

import torch

from m3dt.config import Config, save_config
from m3dt.training.ranks import is_first_rank, wait_for
from m3dt.training.run import Run
from m3dt.utils.errors import RunError, UserError

# Loaded in the parent: a child must not load libraries between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def devices_of(config: Config) -> list[int]:
    """Return the devices that share stage 2; one or none means that it is not shared."""
    trainer = config.trainer
    asked, on_cpu = trainer.get("devices", 1), not torch.cuda.is_available()
    if trainer.get("num_nodes", 1) != 1:
        return []  # on several nodes, run one job per shard
    if isinstance(asked, list | tuple):
        if not all(str(device).isdigit() for device in asked):
            source = config.sources.of("trainer.devices")
            raise UserError(f"{source}: trainer.devices={list(asked)} must be numbers of devices")
        return [int(device) for device in asked]
    if str(asked) in ("auto", "-1"):
        return [] if on_cpu else list(range(torch.cuda.device_count()))
    return list(range(int(asked))) if str(asked).isdigit() else []


def shards_of(shard: str, parts: int) -> list[str]:
    """Divide a shard further: part i of `a/b` in n takes the experts k with k % (b n) = a + b i."""
    a, b = map(int, shard.split("/"))
    return [f"{a + b * i}/{b * parts}" for i in range(parts)]


def _with_parent() -> None:
    """Have the system send SIGTERM to this child if its parent dies; it saves a checkpoint then."""
    if _LIBC is not None:
        _LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)


def train_on_devices(run: Run, names: Sequence[str], devices: Sequence[int]) -> None:
    """Train experts in one process per device and wait for all of them.

    Args:
        run: The run.
        names: Of the experts.
        devices: As `devices_of` gives them.

    Raises:
        RunError: Some of them failed; the experts of the others are registered.
    """
    if not is_first_rank():
        wait_for(lambda: all(run.registry.has("expert", name) for name in names), run.folder)
        return
    run.begin()
    mine = run.config.stage2.shard.replace("/", "-of-")
    file = run.checkpoints / f"stage2-{mine}.yaml"
    save_config(run.config, file)
    on_gpu = torch.cuda.is_available() and run.config.trainer.get("accelerator") != "cpu"
    shards = shards_of(run.config.stage2.shard, len(devices))
    codes: dict[str, int] = {}
    processes = {}
    try:
        for shard, device in zip(shards, devices, strict=True):
            own = f"trainer.devices={f'[{device}]' if on_gpu else 1}"
            words = ["--conf", str(file), f"stage2.shard={shard}", own, "trainer.strategy=auto"]
            command = [sys.executable, "-m", "m3dt", "stage2", *words]
            processes[shard] = subprocess.Popen(command, preexec_fn=_with_parent)
        codes = {shard: process.wait() for shard, process in processes.items()}
    finally:
        for process in processes.values():
            process.terminate()  # if it still runs, it saves a checkpoint and ends
        for process in processes.values():
            process.wait()
    run.begin()  # each shard wrote its own configuration there
    failed = [f"{shard} (exit code {code})" for shard, code in codes.items() if code]
    if failed:
        raise RunError(
            f"stage 2: shards {', '.join(failed)} failed, see above. The experts of the others are "
            "registered; the same command trains the rest."
        )
    file.unlink(missing_ok=True)
