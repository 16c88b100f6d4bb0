"""Methods without stages: everything trains on all tasks at once (paper section 5.1)."""

from m3dt.config import StageConfig
from m3dt.models import PromptDT
from m3dt.stages.stage import Stage


class BaselineStage(Stage):
    """Trains a whole model: PromptDT, MTDT, or M3DT end to end."""

    number = 0

    def __init__(self, model: PromptDT, config: StageConfig, seed: int) -> None:
        super().__init__(model, config, seed, trained=[model])
