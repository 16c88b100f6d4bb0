"""Stage 3: the routers over frozen backbone and experts, on all tasks (paper section 4.3).

With other choices of what trains, also the paper's ablations of freezing and grouping (table 2).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from m3dt.config import StageConfig
from m3dt.models import PromptDT
from m3dt.stages.stage import Stage, derive_seed


class RouterStage(Stage):
    """Trains the routers of a model with `add_mixtures(num_experts, routed=True)`.

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
        self.train_experts = train_experts
        super().__init__(model, config, seed)

    def trained_modules(self) -> Iterable[nn.Module]:
        routers = [m.router for m in self.model.mixtures if m.router is not None]
        return [*routers, *self._experts()]

    def _experts(self) -> list[nn.Module]:
        return [m.experts for m in self.model.mixtures] if self.train_experts else []

    def reset_experts(self) -> None:
        """Draw fresh experts, the same ones that stage 2 begins with."""
        for layer, mixture in enumerate(self.model.mixtures):
            numbers = self.expert_numbers()
            mixture.experts.reset([derive_seed(self.seed, 2, k, layer) for k in numbers])

    def weights(self) -> dict[str, Tensor]:
        """Return what was trained: `<layer>.router.*`, and `<layer>.experts.*` if those were."""
        parts = ("router", "experts") if self.train_experts else ("router",)
        return {
            f"{layer}.{part}.{name}": tensor
            for layer, mixture in enumerate(self.model.mixtures)
            for part in parts
            for name, tensor in mixture.get_submodule(part).state_dict().items()
        }
