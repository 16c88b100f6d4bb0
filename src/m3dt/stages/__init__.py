"""The training stages of M3DT and of its baselines, each a LightningModule, and the grouping."""

from m3dt.stages.backbone import BackboneStage
from m3dt.stages.baseline import BaselineStage
from m3dt.stages.experts import ExpertStage
from m3dt.stages.gradients import evaluation_mode
from m3dt.stages.harmodt import HarmoStage
from m3dt.stages.prompt_router import PromptRouterStage
from m3dt.stages.router import RouterStage
from m3dt.stages.seeds import derive_seed
from m3dt.stages.stage import Stage, row_losses

__all__ = [
    "BackboneStage",
    "BaselineStage",
    "ExpertStage",
    "HarmoStage",
    "PromptRouterStage",
    "RouterStage",
    "Stage",
    "derive_seed",
    "evaluation_mode",
    "row_losses",
]
