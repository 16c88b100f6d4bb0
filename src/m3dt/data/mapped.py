"""Gather batches from memory-mapped files: no RAM is needed, however large the dataset is.

Letters: N tasks, P prompt steps.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from m3dt.config import LoaderConfig, ModelConfig
from m3dt.data.batch import Batch, Segment
from m3dt.data.draws import Draws
from m3dt.data.format import NUM_PROMPTS
from m3dt.data.inputs import Rows
from m3dt.data.sampler import TaskSampler, not_finite
from m3dt.data.store import TaskStore, action_mask


class MappedData:
    """The tasks of a dataset, read from their files."""

    def __init__(
        self, tasks: Sequence[TaskStore], loader: LoaderConfig, model: ModelConfig
    ) -> None:
        self.samplers = [TaskSampler(task, loader, model) for task in tasks]
        self.model = model
        masks = [action_mask(task.spec, model.action_dim) for task in tasks]
        self.action_masks = torch.from_numpy(np.stack(masks))

    def gather(self, draws: Draws) -> Batch:
        """Return the rows of a batch."""
        return self.gather_all([draws])[0]

    def gather_all(self, draws: Sequence[Draws]) -> list[Batch]:
        """Return the rows of several batches; pages of the files are unmapped only after them."""
        batches = [self._read(d) for d in draws]
        for task in torch.cat([d.task for d in draws]).unique().tolist():
            self.samplers[task].store.release()
        return batches

    def _read(self, draws: Draws) -> Batch:
        tasks, begin = draws.task.numpy(), draws.begin.numpy()
        changes = np.flatnonzero(np.diff(tasks)) + 1  # rows of a task are neighbours
        parts = []
        for task, own in zip(tasks[[0, *changes]], np.split(begin, changes), strict=True):
            parts.append(self.samplers[task].rows(own, self.model.context_length))
        rows = Rows.join(parts)
        if not rows.are_finite():
            raise not_finite(self.samplers[task] for task in np.unique(tasks))
        task_index, number = draws.prompts.unbind(1)
        return Batch(
            rows.segment(),
            Segment(*(tensor[task_index, number] for tensor in self.prompts)),
            draws.prompt_rows,
            self.action_masks[draws.task],
            draws.loss_weight,
            draws.task,
            draws.prompts[:, 0],
        )

    @cached_property
    def prompts(self) -> Segment:
        """The prompts of all tasks, (N, prompts per task, P, ...): the same few in every batch."""
        which = np.arange(NUM_PROMPTS)
        found = [sampler.prompts(which, self.model.prompt_length) for sampler in self.samplers]
        rows = Rows(*map(np.stack, zip(*found, strict=True)))
        if not rows.are_finite():
            raise not_finite(self.samplers)
        return rows.segment()
