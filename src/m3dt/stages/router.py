"""Stage 3: the routers over frozen backbone and experts, on all tasks (paper section 4.3).

With `train_experts`, also the paper's ablations of freezing and grouping (table 2).
"""

from __future__ import annotations

from torch import Tensor

from m3dt.config import StageConfig
from m3dt.models import PromptDT
from m3dt.stages.experts import ExpertStage
from m3dt.stages.seeds import derive_seed
from m3dt.stages.stage import Stage


class RouterStage(Stage):
    """Trains the routers of a model with `add_mixtures(model, num_experts, routed=True)`.

    Args:
        model: Backbone, experts and routers.
        config: The stage's optimiser.
        seed: Seed of the experiment.
        train_experts: Whether the experts train too.
    """

    number = 3

    def __init__(
        self, model: PromptDT, config: StageConfig, seed: int, train_experts: bool = False
    ) -> None:
        parts = ("router", "experts") if train_experts else ("router",)
        trained = [m.get_submodule(part) for part in parts for m in model.mixtures]
        super().__init__(model, config, seed, trained)
        self.parts = parts

    def reset_experts(self) -> None:
        """Draw fresh experts, the same ones that stage 2 begins with."""
        for layer, mixture in enumerate(self.model.mixtures):
            numbers = self.expert_numbers()
            seeds = [derive_seed(self.seed, ExpertStage.number, k, layer) for k in numbers]
            mixture.experts.reset(seeds)

    def weights(self) -> dict[str, Tensor]:
        """Return what was trained: `<layer>.router.*`, and `<layer>.experts.*` if those were."""
        return {
            f"{layer}.{part}.{name}": tensor
            for layer, mixture in enumerate(self.model.mixtures)
            for part in self.parts
            for name, tensor in mixture.get_submodule(part).state_dict().items()
        }
