"""What the training commands do."""

from m3dt.pipeline.methods import train
from m3dt.pipeline.stages import group, stage1, stage2, stage3

__all__ = ["group", "stage1", "stage2", "stage3", "train"]
