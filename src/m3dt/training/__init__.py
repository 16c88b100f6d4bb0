"""Train the models of a run: `train` is the one door, everything else here serves it."""

from m3dt.training.callbacks import build_callbacks
from m3dt.training.train import COMMANDS, train

__all__ = ["COMMANDS", "build_callbacks", "train"]
