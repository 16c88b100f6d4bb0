"""Datasets of trajectories: writing them from simulators, and drawing batches from them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from m3dt.data.store import DatasetStore, TaskStore

if TYPE_CHECKING:
    from m3dt.data.batch import Batch, Segment
    from m3dt.data.context import TaskContext
    from m3dt.data.datamodule import M3DTDataModule
    from m3dt.data.draws import Draws, ExpertStreams, TaskStream
    from m3dt.data.loading import Chunk, ValidationRound

__all__ = [
    "Batch",
    "Chunk",
    "DatasetStore",
    "Draws",
    "ExpertStreams",
    "M3DTDataModule",
    "Segment",
    "TaskStream",
    "TaskContext",
    "TaskStore",
    "ValidationRound",
]

# What needs torch or lightning is imported when it is first used: collecting needs neither.
_MODULES = {
    "Batch": "batch",
    "Segment": "batch",
    "TaskContext": "context",
    "Chunk": "loading",
    "Draws": "draws",
    "ExpertStreams": "draws",
    "M3DTDataModule": "datamodule",
    "TaskStream": "draws",
    "ValidationRound": "loading",
}

if not TYPE_CHECKING:  # a type checker should report a misspelt name, not ask this function

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'm3dt.data' has no attribute '{name}'")
        return getattr(import_module(f"m3dt.data.{_MODULES[name]}"), name)
