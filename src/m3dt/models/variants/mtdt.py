"""MTDT: a Decision Transformer that knows its tasks by a learned vector each, without prompts."""

import torch
from torch import Tensor, nn

from m3dt.data.batch import Segment
from m3dt.models.plain import PromptDT


class MTDT(PromptDT):
    """Appends the task's vector, of width `task_embedding`, to every state (paper section 5.1)."""

    def add_task_input(self) -> None:
        self.task_embed = nn.Embedding(self.num_tasks, self.config.task_embedding)

    def hidden_states(
        self, segment: Segment, prompt: Segment | None, task_index: Tensor | None = None
    ) -> Tensor:
        return super().hidden_states(segment, None, task_index)

    def embed_segment(self, segment: Segment, task_index: Tensor | None) -> Tensor:
        assert task_index is not None, "this model reads its task's number"
        steps = segment.states.shape[1]
        vector = self.task_embed(task_index)[:, None].expand(-1, steps, -1)
        states = torch.cat((segment.states, vector), dim=2)
        return super().embed_segment(segment._replace(states=states), None)
