"""Stage 1: the Prompt-DT backbone on all tasks (paper section 4.1)."""

from __future__ import annotations

from m3dt.config import StageConfig
from m3dt.models import PromptDT
from m3dt.stages.stage import Stage


class BackboneStage(Stage):
    """Trains the whole backbone until `max_steps`, or until its gradient conflict has peaked.

    The conflict callback measures and asks `stages/stopping.py` whether to stop.
    """

    number = 1

    def __init__(self, model: PromptDT, config: StageConfig, seed: int) -> None:
        super().__init__(model, config, seed, trained=[model])
