"""Stage 3: the routers over frozen backbone and experts, on all tasks (paper section 4.3)."""

from torch import Tensor

from m3dt.config import FrozenStageConfig
from m3dt.models import PromptDT
from m3dt.stages.experts import ExpertStage
from m3dt.stages.seeds import derive_seed
from m3dt.stages.stage import Stage


class RouterStage(Stage):
    """Trains the routers of a model with `add_mixtures(model, num_experts, routed=True)`.

    By default nothing drops units here: routers have no dropout, all else is frozen.

    Args:
        model: Backbone, experts and routers.
        config: The stage's optimiser, and `frozen_dropout`.
        seed: Seed of the experiment.
        train_experts: Whether the experts train too, for the ablations of table 2.
    """

    number = 3

    def __init__(
        self, model: PromptDT, config: FrozenStageConfig, seed: int, train_experts: bool = False
    ) -> None:
        parts = ("router", "experts") if train_experts else ("router",)
        trained = [m.get_submodule(part) for part in parts for m in model.mixtures]
        super().__init__(model, config, seed, trained, config.frozen_dropout)
        self.parts = parts

    def reset_experts(self) -> None:
        """Draw fresh experts with the seeds of stage 2."""
        for layer, mixture in enumerate(self.model.mixtures):
            numbers = range(mixture.num_experts)
            keys = [(self.seed, ExpertStage.number, k, layer) for k in numbers]
            mixture.experts.reset([derive_seed(*key) for key in keys])

    def weights(self) -> dict[str, Tensor]:
        """Return what was trained: `<layer>.router.*`; with `train_experts`, experts too."""
        return {
            f"{layer}.{part}.{name}": tensor
            for layer, mixture in enumerate(self.model.mixtures)
            for part in self.parts
            for name, tensor in mixture.get_submodule(part).state_dict().items()
        }
