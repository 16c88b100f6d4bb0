"""Cut training segments and prompts from a task's dataset.

Letters: B batch.
"""

from collections.abc import Iterable

import numpy as np

from m3dt.config import LoaderConfig, ModelConfig
from m3dt.data.cutter import TrajectoryCutter
from m3dt.data.format import NUM_PROMPTS
from m3dt.data.inputs import Rows, TaskInputs
from m3dt.data.normalization import normalizations
from m3dt.data.soundness import value_problems
from m3dt.data.store import TaskStore
from m3dt.data.values import LARGEST
from m3dt.utils.errors import UserError


class TaskSampler(TrajectoryCutter):
    """Cuts segments and prompts of one task."""

    store: TaskStore

    def __init__(self, store: TaskStore, loader: LoaderConfig, model: ModelConfig) -> None:
        super().__init__(store)
        self.inputs, self.prompt_inputs = (
            TaskInputs(normalization, store.spec.return_scale, model)
            for normalization in normalizations(store, loader, model.state_dim)
        )  # of training segments, and of prompts, which may have their own normalisation

    def rows(self, begin: np.ndarray, length: int) -> Rows:
        """Return training segments of at most `length` steps from the transitions `begin`, (B,)."""
        trajectory = np.searchsorted(self.store.episode_ends, begin, side="right")
        return self.segments(trajectory, begin, length, self.inputs)

    def whole(self) -> tuple[Rows, np.ndarray, np.ndarray]:
        """Prepare all transitions of the task.

        Returns:
            The prepared rows (1, transitions, ...), the transitions left in the trajectory of each
            of them, itself included, (transitions,), and the prepared state of padding, (S,).
        """
        store = self.store
        lengths = np.diff(store.episode_ends, prepend=0)
        returns = np.empty(len(store.rewards))
        for start, end in zip(self._starts, store.episode_ends, strict=True):
            rewards = store.rewards[start:end].astype(np.float64)
            returns[start:end] = rewards[::-1].cumsum()[::-1]
        timesteps = np.arange(len(returns)) - np.repeat(self._starts, lengths)
        real = np.ones((1, len(returns)), bool)
        arrays = (store.observations, store.actions, returns, timesteps)
        states, actions, returns, timesteps = (array[None] for array in arrays)
        rows = self.inputs.prepare(states, actions, returns, timesteps, real)
        if not rows.are_finite():
            raise not_finite([self])
        first = (array[:, :1] for array in (states, actions, returns, timesteps, ~real))
        nothing = self.inputs.prepare(*first)
        return rows, np.repeat(lengths, lengths) - timesteps, nothing.states[0, 0]

    def prompts(self, which: np.ndarray, length: int) -> Rows:
        """Return prompts: the `length` steps before a trajectory's final one (appendix B).

        `which` holds the indices of the prompt trajectories, 0 or 1, (B,).
        """
        trajectory = len(self._starts) - NUM_PROMPTS + which
        return self.ends(trajectory, length, self.prompt_inputs)


def not_finite(samplers: Iterable[TaskSampler]) -> UserError:
    """Return the error for prepared rows that are not finite: search for the value that did it.

    Args:
        samplers: Of the tasks whose rows they may be.
    """
    stores = [sampler.store for sampler in samplers]
    for store in stores:
        everything = slice(0, len(store.rewards))
        problem = next(value_problems(store, everything, action_limit=LARGEST), None)
        if problem:
            return UserError(f"{store.path}: {problem}. Run `m3dt verify {store.path.parent}`.")
    names = ", ".join(store.spec.name for store in stores)
    return UserError(f"prepared states, actions or returns of {names} are not finite")
