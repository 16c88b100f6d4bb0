"""A model and a stage of one's own, by class path: docs/plugging-in.md.

    m3dt collect --conf quickstart
    m3dt train --conf quickstart run=runs/own model.class_path=examples.own_model.MovingPromptDT \
        stage1.class_path=examples.own_model.RobustStage
    m3dt evaluate --conf runs/own/config.yaml

The names are those of this file from the folder above it. The model is Prompt-DT that also sees how
the state moved since the step before. Its blocks stay, so that stages 2 and 3 add experts to it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3dt.config import ModelConfig
from m3dt.data import Batch
from m3dt.data.batch import Segment
from m3dt.models import PromptDT
from m3dt.stages import BackboneStage


class MovingPromptDT(PromptDT):
    """Adds an embedding of the last change of the state to each token."""

    def __init__(self, config: ModelConfig, num_tasks: int = 0) -> None:
        super().__init__(config, num_tasks)
        self.move = nn.Linear(self.embed.state.in_features, config.n_embd)
        nn.init.zeros_(self.move.weight)  # it starts as Prompt-DT

    def embed_segment(self, segment: Segment, task_index: Tensor | None) -> Tensor:
        """Embed the main sequence, (B, 3T, D)."""
        moved = F.pad(segment.states.diff(dim=1), (0, 0, 1, 0))  # (B, T, S)
        tokens = super().embed_segment(segment, task_index)
        return tokens + self.move(moved).repeat_interleave(3, dim=1)


class RobustStage(BackboneStage):
    """Stage 1 with Huber's loss: outliers among the actions pull less."""

    def row_losses(self, batch: Batch) -> Tensor:
        """Return what each row adds to the loss, (B,)."""
        real = batch.segment.attention_mask[..., None] * batch.action_mask[:, None]  # (B, T, A)
        losses = F.huber_loss(
            self.predictions(batch), batch.segment.actions, reduction="none", delta=0.5
        )
        return torch.sum(losses * real, dim=(1, 2)) * batch.loss_weight
