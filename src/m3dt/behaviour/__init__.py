"""Behaviour policies: scripts and trained networks that play the episodes of a dataset."""

from m3dt.behaviour.ladder import Ladder, Noise, Rung
from m3dt.behaviour.library import Library
from m3dt.behaviour.player import Player

__all__ = ["Ladder", "Library", "Noise", "Player", "Rung"]
