"""The task data that an agent needs to act without the dataset.

Letters: N tasks, P prompt steps, S state dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m3dt.config import LoaderConfig, ModelConfig
from m3dt.data.batch import Segment
from m3dt.data.format import NUM_PROMPTS
from m3dt.data.inputs import Rows, TaskInputs
from m3dt.data.normalization import Normalization
from m3dt.data.prompted_task import PromptedTask
from m3dt.data.sampler import TaskSampler
from m3dt.data.store import DatasetStore
from m3dt.tasks import TaskSpec, get_task
from m3dt.utils.errors import UserError, nearest


@dataclass(frozen=True)
class TaskContext:
    """Normalisation, prompts and best returns of the tasks an agent was trained on."""

    tasks: tuple[str, ...]  # N names
    state_mean: Tensor  # (N, S)
    state_std: Tensor  # (N, S)
    best_return: Tensor  # (N,), largest episode return in the data
    prompts: Segment  # (N, prompts per task, P, ...), prepared
    prompt_mean: Tensor  # (N, S), of the states' normalisation in prompts
    prompt_std: Tensor  # (N, S)
    random_return: Tensor  # (N,) of float64, NaN where the score does not follow from the data

    @classmethod
    def from_store(
        cls, store: DatasetStore, loader: LoaderConfig, model: ModelConfig
    ) -> TaskContext:
        samplers = [TaskSampler(task, loader, model) for task in store.tasks]
        all_prompts = np.arange(NUM_PROMPTS)
        prompts = [sampler.prompts(all_prompts, model.prompt_length) for sampler in samplers]
        best = [float(task.episode_returns.max()) for task in store.tasks]
        stacked = Rows(*map(np.stack, zip(*prompts, strict=True)))
        return cls(
            tuple(task.spec.name for task in store.tasks),
            *_stacked([sampler.inputs.normalization for sampler in samplers]),
            torch.tensor(best, dtype=torch.float32),
            stacked.segment(),
            *_stacked([sampler.prompt_inputs.normalization for sampler in samplers]),
            torch.tensor([task.random_return for task in store.tasks], dtype=torch.float64),
        )

    @classmethod
    def empty(cls) -> TaskContext:
        """Return the context of a model that was imported without data: it knows no task."""
        none = torch.zeros(0)
        return cls((), none, none, none, Segment(none, none, none, none, none), none, none, none)

    @classmethod
    def join(cls, contexts: Sequence[TaskContext]) -> TaskContext:
        """Return the context of all tasks of several, in their order."""
        tasks = tuple(task for context in contexts for task in context.tasks)
        named = [context.tensors() for context in contexts]
        joined = {name: torch.cat([tensors[name] for tensors in named]) for name in named[0]}
        return cls.from_tensors(tasks, joined)

    def split(self) -> list[TaskContext]:
        """Return a context for each task."""
        tensors = self.tensors()
        return [
            self.from_tensors([task], {name: t[i : i + 1] for name, t in tensors.items()})
            for i, task in enumerate(self.tasks)
        ]

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
                f"It knows {', '.join(self.tasks)}. To act in another task by prompts, give "
                "evaluation.prompts=DATA."
            )
        return self.tasks.index(task)

    def spec(self, task: str) -> TaskSpec:
        """Return the specification of a task, with what it leaves to the data."""
        index = self.index(task)
        returns = self.random_return[index].item(), self.best_return[index].item()
        return get_task(task).completed(*returns)

    def inputs(self, task: str, model: ModelConfig) -> TaskInputs:
        """Return what prepares a task's live episodes, as its training segments were prepared."""
        index = self.index(task)
        normalization = Normalization(self.state_mean[index].numpy(), self.state_std[index].numpy())
        return TaskInputs(normalization, self.spec(task).return_scale, model)

    def task(self, name: str, model: ModelConfig) -> PromptedTask:
        """Return a task as an agent meets it.

        Raises:
            UserError: The agent was not trained on it.
        """
        index = self.index(name)
        return PromptedTask(
            self.spec(name),
            index,
            float(self.best_return[index]),
            self.inputs(name, model),
            Segment(*(tensor[index] for tensor in self.prompts)),
            Normalization(self.prompt_mean[index].numpy(), self.prompt_std[index].numpy()),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the content as named tensors, for a registry."""
        return {
            "state_mean": self.state_mean,
            "state_std": self.state_std,
            "best_return": self.best_return,
            "prompt_mean": self.prompt_mean,
            "prompt_std": self.prompt_std,
            # Registries take finite numbers alone.
            "random_return": self.random_return.nan_to_num(),
            "has_random_return": ~self.random_return.isnan(),
            **{f"prompts.{name}": tensor for name, tensor in self.prompts._asdict().items()},
        }

    @staticmethod
    def expected_tensors(num_tasks: int, model: ModelConfig) -> dict[str, Tensor]:
        """Return tensors without values that have the names, shapes and types of `tensors`."""
        steps, single = (num_tasks, NUM_PROMPTS, model.prompt_length), torch.float32
        with torch.device("meta"):
            prompts = Segment(
                torch.empty(*steps, model.state_dim, dtype=single),
                torch.empty(*steps, model.action_dim, dtype=single),
                torch.empty(*steps, 1, dtype=single),
                torch.empty(steps, dtype=torch.int64),
                torch.empty(steps, dtype=single),
            )
            states = torch.empty(num_tasks, model.state_dim, dtype=single)
            best = torch.empty(num_tasks, dtype=single)
        random = torch.zeros(num_tasks, dtype=torch.float64)  # computed with, so it has memory
        return TaskContext((), states, states, best, prompts, states, states, random).tensors()

    @classmethod
    def from_tensors(cls, tasks: Sequence[str], tensors: dict[str, Tensor]) -> TaskContext:
        prompts = Segment(*(tensors[f"prompts.{name}"] for name in Segment._fields))
        random = tensors["random_return"].where(tensors["has_random_return"], torch.nan)
        names = ("state_mean", "state_std", "best_return", "prompt_mean", "prompt_std")
        given = {name: tensors[name] for name in names}
        return cls(tuple(tasks), prompts=prompts, random_return=random, **given)


def _stacked(normalizations: Sequence[Normalization]) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations of several tasks, (N, S) each."""
    means, stds = ([getattr(n, name) for n in normalizations] for name in ("mean", "std"))
    return torch.from_numpy(np.stack(means)), torch.from_numpy(np.stack(stds))
