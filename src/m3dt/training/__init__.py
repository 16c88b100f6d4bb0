"""Train the models of a run: `train` is the one door, everything else here serves it."""

from m3dt.training.callbacks import build_callbacks
from m3dt.training.train import COMMANDS, steps_taken, train, trainings

__all__ = ["COMMANDS", "build_callbacks", "steps_taken", "train", "trainings"]
