"""Stage 1: the Prompt-DT backbone on all tasks (paper section 4.1)."""

from m3dt.config import StageConfig
from m3dt.models import PromptDT
from m3dt.stages.stage import Stage


class BackboneStage(Stage):
    """Trains the whole backbone until the tasks' gradient conflict has peaked, or `max_steps`.

    `callbacks/gradient_conflict.py` measures the conflict every `every_n_steps` and calls
    `judge` of `stages/stopping.py`. If that stops it, the weights of the peak are kept, else
    the last ones.
    """

    number = 1

    def __init__(self, model: PromptDT, config: StageConfig, seed: int) -> None:
        super().__init__(model, config, seed, trained=[model])
