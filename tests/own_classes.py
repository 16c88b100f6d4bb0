"""Models as users may write them, which tests name by class path."""

import torch
from torch import nn

from m3dt.models import PromptDT


class Same(PromptDT):
    """Prompt-DT by another name: it runs without shortcuts."""


class Reflex(PromptDT):
    """None of Prompt-DT's parts: one linear layer, which also reads the task's position."""

    def __init__(self, config, num_tasks=0):
        nn.Module.__init__(self)
        self.config, self.num_tasks = config, num_tasks
        self.big_experts = self.prompt_router = None
        self.layer = nn.Linear(config.state_dim, config.action_dim)

    def forward(self, segment, prompt=None, task_index=None):
        assert task_index is not None and prompt is not None
        return torch.tanh(self.layer(segment.states) + task_index[:, None, None])

    @property
    def mixtures(self):
        return []

    def unused_modules(self):
        return []
