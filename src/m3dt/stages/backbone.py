"""Stage 1: the Prompt-DT backbone on all tasks (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from m3dt.stages.stage import Stage


class BackboneStage(Stage):
    """Trains the whole backbone, until the conflict callback or `max_steps` stops it."""

    number = 1

    def trained_modules(self) -> Iterable[nn.Module]:
        return [self.model]
