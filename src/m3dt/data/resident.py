"""Gather batches from tensors on the training device, where the whole dataset lies.

Letters: B batch, T timesteps, P prompt steps, S state, A action, N tasks; `steps` counts the
transitions of all tasks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from m3dt.config import ModelConfig
from m3dt.data.batch import Batch, Segment
from m3dt.data.draws import Draws
from m3dt.data.inputs import PADDED_ACTION
from m3dt.data.mapped import MappedData
from m3dt.data.sampler import TaskSampler


def bytes_per_step(model: ModelConfig) -> int:
    """Return the memory of a transition: states and actions, and three numbers, of 4 bytes each."""
    return 4 * (model.state_dim + model.action_dim + 3)


class ResidentData:
    """A dataset in prepared form: padded, normalised and scaled, with returns-to-go.

    Attributes:
        states: (steps, S).
        actions: (steps, A).
        returns_to_go: (steps,), divided by the task's return scale.
        timesteps: (steps,) of int32, limited to the model's table.
        left: (steps,) of int32, transitions to the end of the trajectory, this one included.
        first: (N,) of int64, where each task's transitions begin.
        padding: (N, S), the prepared state of padding steps.
        prompts: (N, prompts per task, P, ...).
        action_masks: (N, A).
    """

    def __init__(self, mapped: MappedData, device: torch.device | str) -> None:
        sizes = [len(sampler.store.rewards) for sampler in mapped.samplers]
        total, model = sum(sizes), mapped.model
        self.length = model.context_length
        self.states = torch.empty(total, model.state_dim, device=device)
        self.actions = torch.empty(total, model.action_dim, device=device)
        self.returns_to_go = torch.empty(total, device=device)
        self.timesteps = torch.empty(total, dtype=torch.int32, device=device)
        self.left = torch.empty(total, dtype=torch.int32, device=device)
        ends = np.cumsum(sizes)
        self.first = torch.from_numpy(ends - sizes).to(device)
        self.action_masks = mapped.action_masks.to(device)
        self.prompts = Segment(*(tensor.to(device) for tensor in mapped.prompts))
        padding = []
        for sampler, end, size in zip(mapped.samplers, ends, sizes, strict=True):
            padding.append(self._load(sampler, slice(end - size, end)))
        self.padding = torch.stack(padding).to(device)

    def _load(self, sampler: TaskSampler, place: slice) -> Tensor:
        """Copy a task's transitions to their place; return its padding state, (S,)."""
        rows, left, padding = sampler.whole()
        self.states[place] = torch.from_numpy(rows.states[0])
        self.actions[place] = torch.from_numpy(rows.actions[0])
        self.returns_to_go[place] = torch.from_numpy(rows.returns_to_go[0, :, 0])
        self.timesteps[place] = torch.from_numpy(rows.timesteps[0].astype(np.int32))
        self.left[place] = torch.from_numpy(left.astype(np.int32))
        sampler.store.release()
        return torch.from_numpy(padding)

    def gather(self, draws: Draws) -> Batch:
        """Return the rows of a batch; nothing is read back from the device."""
        begin = self.first[draws.task] + draws.begin  # (B,)
        count = self.left[begin].clamp(max=self.length)
        column = torch.arange(self.length, device=begin.device) - (self.length - count)[:, None]
        real = column >= 0  # (B, T)
        index = begin[:, None] + column.clamp(min=0)
        padding = self.padding[draws.task][:, None]
        segment = Segment(
            torch.where(real[..., None], self.states[index], padding),
            torch.where(real[..., None], self.actions[index], PADDED_ACTION),
            torch.where(real, self.returns_to_go[index], 0.0)[..., None],
            torch.where(real, self.timesteps[index], 0).long(),
            real.float(),
        )
        task, number = draws.prompts.unbind(1)
        prompt = Segment(*(tensor[task, number] for tensor in self.prompts))
        return Batch(
            segment,
            prompt,
            draws.prompt_rows,
            self.action_masks[draws.task],
            draws.loss_weight,
            draws.task,
            draws.prompts[:, 0],
        )
