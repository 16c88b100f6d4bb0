"""Trainings through the door of `m3dt.training`, and how far their weights differ."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from m3dt.bench.gpu.outcomes import Differs
from m3dt.bench.gpu.site import CONF, QUIET
from m3dt.config import load_config
from m3dt.runs import Registry
from m3dt.training import train
from m3dt.utils.errors import RunError

CLOSE = 0.1  # of the way; weights whose gradient is nothing but rounding go anywhere
NOT_MOVED = 1e-12  # a learning rate that leaves weights where they start

_LIMIT = 180  # seconds of a training in a process of its own


class KillAt(pl.Callback):
    """Kills its process at a step, as `kill -9` does.

    Args:
        step: Optimiser steps done by then.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def next_step(self, step: int) -> int | None:
        """Return the step at which this callback must be called."""
        return self.step if step < self.step else None

    def deciding_settings(self) -> dict[str, Any]:
        """Return what decides which weights are kept: nothing."""
        return {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train_here(overrides: Sequence[str], *commands: str) -> Path:
    """Run commands of training in this process; return the folder of the run."""
    config = load_config(CONF, overrides)
    for command in commands:
        train(config, command, QUIET)
    return Path(config.run)


def train_apart(overrides: Sequence[str], command: str) -> int:
    """Run a command of training in a process of its own; return its exit code, and what it said."""
    words = [sys.executable, "-m", "m3dt", command, "--conf", CONF, *overrides]
    done = subprocess.run(words, capture_output=True, text=True, timeout=_LIMIT)
    if done.returncode > 0:
        raise RunError(f"m3dt {command} ended with code {done.returncode}: {done.stderr[-1500:]}")
    return done.returncode


def train_through_a_kill(overrides: Sequence[str], command: str, step: int) -> Path:
    """Train until a kill at a step, and go on in this process.

    Raises:
        RunError: The training was not killed, or left no checkpoint.
    """
    kill = [f"callbacks.kill.class={KillAt.__module__}.KillAt", f"callbacks.kill.step={step}"]
    code = train_apart([*overrides, *kill], command)
    if code != -signal.SIGKILL:
        raise RunError(f"m3dt {command} was to be killed, but ended with code {code}")
    run = Path(load_config(CONF, overrides).run)
    if not list(run.glob("checkpoints/*/*.ckpt")):
        raise RunError(f"m3dt {command} was killed at step {step}, before its first checkpoint")
    return train_here(overrides, command)


def copy_run(run: Path, name: str) -> Path:
    """Copy a run to a folder beside it."""
    copy = run.with_name(name)
    if run.exists():
        shutil.copytree(run, copy)
    return copy


def weights_of(run: Path, kind: str, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of the models of a kind, or of one of them."""
    registry = Registry(run)
    entries = [e for e in registry.entries() if e.kind == kind and e.name == (name or e.name)]
    return {
        f"{entry.name}/{key}": tensor
        for entry in entries
        for key, tensor in registry.tensors(entry).items()
    }


def same_weights(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Any]:
    """Compare tensors to the bit.

    Raises:
        Differs: Some are not equal.
    """
    _check_names(found, expected)
    other = [key for key in expected if not torch.equal(found[key], expected[key])]
    measured = {"tensors": len(expected), "different": len(other)}
    if other:
        distances = (float((found[key] - expected[key]).abs().max()) for key in other)
        raise Differs({**measured, "largest": max(distances), "first": other[0]})
    return measured


def close_weights(
    found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]
) -> dict[str, Any]:
    """Compare trained weights: their distance relative to that from where training started.

    Raises:
        Differs: It is larger than `CLOSE`.
    """
    _check_names(found, expected)
    apart, moved = _distance(found, expected), _distance(expected, start)
    measured = {"tensors": len(expected), "relative": apart / max(moved, 1e-300)}
    if not measured["relative"] <= CLOSE:  # nor where it is not a number
        raise Differs(measured)
    return measured


def _check_names(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    if not expected or found.keys() != expected.keys():
        raise Differs({"tensors": len(found), "expected tensors": len(expected)})


def _distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    squares = [(a[key].double() - b[key].double()).square().sum() for key in b]
    return float(torch.stack(squares).sum().sqrt())
