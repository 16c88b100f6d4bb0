"""The training stages of M3DT and of its baselines, each a LightningModule, and the grouping."""

from m3dt.stages.backbone import BackboneStage
from m3dt.stages.base import Stage, WeightSelector, evaluation_mode, row_losses, seed_of
from m3dt.stages.baseline import BaselineStage
from m3dt.stages.experts import ExpertStage
from m3dt.stages.harmodt import HarmoStage
from m3dt.stages.methods import baseline_stage
from m3dt.stages.router import RouterStage

__all__ = [
    "BackboneStage",
    "BaselineStage",
    "ExpertStage",
    "HarmoStage",
    "RouterStage",
    "Stage",
    "WeightSelector",
    "baseline_stage",
    "evaluation_mode",
    "row_losses",
    "seed_of",
]
