"""Stage 2: experts added to the frozen backbone, each on its own task group (paper section 4.2).

Letters: E experts of this process.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from m3dt.config import FrozenStageConfig
from m3dt.models import PromptDT
from m3dt.stages.seeds import derive_seed
from m3dt.stages.stage import Stage


class ExpertStage(Stage):
    """Trains experts at the same time and independently of each other.

    A batch is E equal parts, one per expert (`m3dt.data.batch`). Weights, data, gradient norm and
    Adam state of an expert depend on its number, never on which others are in the process. All
    experts of a block drop the same units. In float32 on one thread, this holds to the bit; more
    threads and GPUs cut products by their size, which changes rounding. Two exceptions: all experts
    skip a step if the loss of one is not finite, and `frozen_dropout` draws the backbone's dropout
    for all of them together.

    Args:
        model: Backbone with `add_mixtures(model, E, routed=False)`.
        config: The stage's optimiser, and `frozen_dropout`, by default off.
        seed: Seed of the experiment.
        experts: Numbers of the experts, E of them.
    """

    number = 2

    def __init__(
        self, model: PromptDT, config: FrozenStageConfig, seed: int, experts: Sequence[int]
    ) -> None:
        trained = [mixture.experts for mixture in model.mixtures]
        super().__init__(model, config, seed, trained, config.frozen_dropout)
        self.expert_numbers = tuple(experts)
        self.num_losses = len(experts)
        for layer, mixture in enumerate(model.mixtures):
            seeds = [derive_seed(seed, self.number, k, layer) for k in experts]
            mixture.experts.reset(seeds)

    def clip(self, parameters: list[nn.Parameter]) -> Tensor:
        """Clip each expert's gradient by its own norm and return the mean of the norms before."""
        banks = [mixture.experts for mixture in self.model.mixtures]
        norms = torch.stack([bank.squared_gradient_norms() for bank in banks]).sum(dim=0).sqrt()
        factors = (self.config.gradient_clip / (norms + 1e-6)).clamp(max=1.0)  # (E,)
        for bank in banks:
            bank.scale_gradients(factors)
        return norms.mean()

    def expert_weights(self) -> dict[int, dict[str, Tensor]]:
        """Return each expert's weights, `<layer>.<name>` to a tensor without the expert axis."""
        mixtures = list(enumerate(self.model.mixtures))
        return {
            k: {
                f"{layer}.{name}": tensor.clone()
                for layer, mixture in mixtures
                for name, tensor in mixture.experts.weights_of(e).items()
            }
            for e, k in enumerate(self.expert_numbers)
        }
