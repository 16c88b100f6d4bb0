"""The three training stages of M3DT, each a LightningModule, and the grouping between them."""

from m3dt.stages.backbone import BackboneStage
from m3dt.stages.base import Stage, WeightSelector, evaluation_mode, row_losses, seed_of
from m3dt.stages.experts import ExpertStage
from m3dt.stages.router import RouterStage

__all__ = [
    "BackboneStage",
    "ExpertStage",
    "RouterStage",
    "Stage",
    "WeightSelector",
    "evaluation_mode",
    "row_losses",
    "seed_of",
]
