"""From a configuration to the stage of a method that has but one."""

from __future__ import annotations

from m3dt.config import Config
from m3dt.models import PromptDT
from m3dt.stages.baseline import BaselineStage
from m3dt.stages.harmodt import HarmoStage


def baseline_stage(config: Config, num_tasks: int) -> BaselineStage:
    """Build the configuration's baseline with fresh weights."""
    model = PromptDT(config.model, num_tasks)
    if config.method == "m3dt-end-to-end":
        model.add_mixtures(config.moe.num_experts, routed=True, moe=config.moe)
    if config.method == "harmodt":
        return HarmoStage(model, config.baseline, config.seed, config.harmodt, num_tasks)
    return BaselineStage(model, config.baseline, config.seed)
