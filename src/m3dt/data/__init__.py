"""Datasets of trajectories: writing them from simulators, and drawing batches from them."""

from m3dt.data.batch import Batch, Segment
from m3dt.data.context import TaskContext
from m3dt.data.datamodule import ExpertStreams, M3DTDataModule, TaskStream
from m3dt.data.store import DatasetStore, TaskStore

__all__ = [
    "Batch",
    "DatasetStore",
    "ExpertStreams",
    "M3DTDataModule",
    "Segment",
    "TaskStream",
    "TaskContext",
    "TaskStore",
]
