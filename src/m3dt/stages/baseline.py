"""Methods without stages: everything trains on all tasks at once (paper section 5.1)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from m3dt.stages.stage import Stage


class BaselineStage(Stage):
    """Trains a whole model: PromptDT, MTDT, or M3DT end to end."""

    number = 0

    def trained_modules(self) -> Iterable[nn.Module]:
        return [self.model]
