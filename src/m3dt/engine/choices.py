"""Decide for a training and a device whether to record CUDA graphs and whether to compile."""

from dataclasses import dataclass, replace

import lightning.pytorch as pl

from m3dt.config import ComputeConfig
from m3dt.engine.hooks import INNER_HOOKS, callbacks_of, has_hook
from m3dt.utils.errors import UserError

REPAYS_COMPILING = 20_000  # steps: compiling takes up to a minute and saves milliseconds a step


@dataclass(frozen=True)
class Choices:
    """How the steps of a training run."""

    graph: bool
    compile: bool

    def __str__(self) -> str:
        parts = ["a CUDA graph per step"] if self.graph else []
        parts += ["compiled operations"] if self.compile else []
        return ", ".join(parts)


def of_unknown_code(compute: ComputeConfig) -> ComputeConfig:
    """Return the settings for a model or a stage of the user's, where `auto` means off.

    Nobody knows whether its steps can be recorded or compiled.
    """
    graph, compiles = (
        "off" if choice == "auto" else choice for choice in (compute.graph, compute.compile)
    )
    return replace(compute, graph=graph, compile=compiles)


def choose(compute: ComputeConfig, trainer: pl.Trainer, recordable: bool) -> Choices:
    """Decide how steps run.

    Args:
        compute: The settings; `auto` leaves the choice to this function.
        trainer: Gives device, precision, processes and length.
        recordable: Whether a step of the model can be recorded as a graph.

    Raises:
        UserError: The settings ask for what cannot be done here.
    """
    device, precision = trainer.strategy.root_device, str(trainer.precision)
    obstacle = ""
    if device.type != "cuda":
        obstacle = "needs a CUDA device"
    elif precision == "16-mixed":
        obstacle = "does not work in float16, whose scaler waits for the device; use bf16-mixed"
    if compute.compile == "on" and obstacle:
        raise UserError(f"compute.compile=on {obstacle}. Set compute.compile=auto.")
    compiles = compute.compile == "on" or (
        compute.compile == "auto" and not obstacle and trainer.max_steps >= REPAYS_COMPILING
    )
    if not obstacle and trainer.world_size > 1:
        obstacle = "works on one device alone"
    elif not obstacle and trainer._detect_anomaly:
        obstacle = "does not work with trainer.detect_anomaly, which waits for the device"
    elif not obstacle and (watching := find_watcher(trainer)):
        obstacle = f"does not work with {watching}, which looks into a step"
    elif not obstacle and not recordable:
        obstacle = "does not work for big experts with dropout"
    if compute.graph == "on" and obstacle:
        raise UserError(f"compute.graph=on {obstacle}. Set compute.graph=auto.")
    return Choices(graph=compute.graph != "off" and not obstacle, compile=compiles)


def find_watcher(trainer: pl.Trainer) -> str:
    """Return the class of a callback that Lightning would call within a step, or nothing."""
    watching = (c for c in callbacks_of(trainer) if has_hook(c, *INNER_HOOKS))
    return next((type(callback).__name__ for callback in watching), "")
