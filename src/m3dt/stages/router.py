"""Stage 3: the routers over frozen backbone and experts, on all tasks (paper section 4.3)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from m3dt.stages.base import Stage


class RouterStage(Stage):
    """Trains the routers of a model with `add_mixtures(num_experts, routed=True)`."""

    number = 3

    def trained_modules(self) -> Iterable[nn.Module]:
        return [mixture.router for mixture in self.model.mixtures if mixture.router is not None]
