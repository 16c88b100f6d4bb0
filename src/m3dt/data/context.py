"""What an agent must know of its tasks to act without the dataset.

Letters: N tasks, P prompt steps, S state, A action; Q = 2 prompts a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from m3dt.config import LoaderConfig, ModelConfig
from m3dt.data.batch import Segment
from m3dt.data.format import NUM_PROMPTS
from m3dt.data.sampler import TaskSampler
from m3dt.data.store import DatasetStore
from m3dt.utils.errors import UserError, nearest

_SEGMENT_FIELDS = ("states", "actions", "returns_to_go", "timesteps", "attention_mask")


@dataclass(frozen=True)
class TaskContext:
    """Normalisation, prompts and best returns of the tasks an agent was trained on.

    Attributes:
        tasks: Names, N of them.
        state_mean, state_std: (N, S).
        best_return: Largest episode return in the data, (N,).
        prompts: Encodable prompts with shapes (N, Q, P, ...).
    """

    tasks: tuple[str, ...]
    state_mean: Tensor
    state_std: Tensor
    best_return: Tensor
    prompts: Segment

    @classmethod
    def from_store(
        cls, store: DatasetStore, loader: LoaderConfig, model: ModelConfig
    ) -> TaskContext:
        samplers = [TaskSampler(t, loader, model.max_timesteps) for t in store.tasks]
        both = np.arange(NUM_PROMPTS)
        rows = [sampler.prompts(both, model.prompt_length) for sampler in samplers]
        stacked = {
            field.name: torch.from_numpy(np.stack([getattr(r, field.name) for r in rows]))
            for field in fields(rows[0])
        }
        return cls(
            tuple(task.spec.name for task in store.tasks),
            torch.from_numpy(np.stack([s.normalization.mean for s in samplers])),
            torch.from_numpy(np.stack([s.normalization.std for s in samplers])),
            torch.tensor([float(task.episode_returns.max()) for task in store.tasks]),
            Segment(**stacked),
        )

    @classmethod
    def empty(cls) -> TaskContext:
        """Return the context of a model that came without data: it knows no task."""
        none = torch.zeros(0)
        return cls((), none, none, none, Segment(none, none, none, none, none))

    def index(self, task: str) -> int:
        """Return the position of a task.

        Raises:
            UserError: The agent was not trained on it.
        """
        if not self.tasks:
            raise UserError(
                f"the agent knows no tasks, '{task}' neither: it was imported without a dataset, "
                "whose prompts and statistics it needs to act. Import it again with data=FOLDER."
            )
        if task not in self.tasks:
            raise UserError(
                f"the agent was not trained on '{task}'.{nearest(task, self.tasks)} "
                f"It knows {', '.join(self.tasks)}."
            )
        return self.tasks.index(task)

    def tensors(self) -> dict[str, Tensor]:
        """Return the content as named tensors, for a registry."""
        prompts = {f"prompts.{n}": getattr(self.prompts, n) for n in _SEGMENT_FIELDS}
        return {
            "state_mean": self.state_mean,
            "state_std": self.state_std,
            "best_return": self.best_return,
            **prompts,
        }

    @classmethod
    def from_tensors(cls, tasks: Sequence[str], tensors: dict[str, Tensor]) -> TaskContext:
        prompts = Segment(**{n: tensors[f"prompts.{n}"] for n in _SEGMENT_FIELDS})
        return cls(
            tuple(tasks),
            tensors["state_mean"],
            tensors["state_std"],
            tensors["best_return"],
            prompts,
        )
