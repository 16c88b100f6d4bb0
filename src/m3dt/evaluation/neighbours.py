"""Acting by the nearest recorded state: what a few trajectories are worth without any learning.

REGENT (arXiv 2412.04759) found such a baseline strong in tasks that an agent has not seen.

Letters: S state dim, A action dim.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import KDTree

from m3dt.config import LoaderConfig
from m3dt.data.normalization import live_normalization
from m3dt.data.store import TaskStore
from m3dt.evaluation.policies import Policy
from m3dt.evaluation.sessions import EpisodeGroup, Session
from m3dt.tasks import TaskSpec

_SHARE, _FEWEST = 0.2, 2  # of a task's trajectories: the best fifth, two at least


class Neighbours:
    """The states of a task's best trajectories, and the actions that were taken in them."""

    def __init__(self, store: TaskStore, loader: LoaderConfig) -> None:
        count = max(_FEWEST, round(_SHARE * len(store.episode_ends)))
        best = np.argsort(-store.episode_returns, kind="stable")[:count]
        starts, ends = store.episode_starts, store.episode_ends
        rows = np.concatenate([np.arange(starts[i], ends[i]) for i in np.sort(best)])
        self.spec = store.spec
        self._actions = store.actions[rows]
        moments, width = (store.state_mean, store.state_std), store.spec.state_dim
        self._normalization = live_normalization(*moments, loader, width)
        self._tree = KDTree(self._normalized(store.observations[rows]))

    def _normalized(self, states: np.ndarray) -> np.ndarray:
        return (states - self._normalization.mean) / self._normalization.std

    def actions(self, states: np.ndarray) -> np.ndarray:
        """Return the actions of the states nearest to these: (episodes, S) -> (episodes, A)."""
        _, nearest = self._tree.query(self._normalized(states))
        return self._actions[nearest]


class LatestSession(Session):
    """The latest observations of a group."""

    def __init__(self, task: str) -> None:
        self.task = task

    def observe(self, observations: np.ndarray, rewards: np.ndarray | None) -> None:
        self.observations = observations


class NearestPolicy(Policy[LatestSession]):
    """Takes the action of the nearest state in a task's best trajectories.

    States are normalised as a model's are. The trajectories are the best fifth of the data, two at
    least.

    Args:
        stores: The data of its tasks.
        loader: How states are normalised.
        specs: Of tasks whose score follows from other data than these.
    """

    name = "nearest"

    def __init__(
        self,
        stores: Sequence[TaskStore],
        loader: LoaderConfig,
        specs: Mapping[str, TaskSpec] | None = None,
    ) -> None:
        self._known = {store.spec.name: Neighbours(store, loader) for store in stores}
        self._specs = specs or {}

    def begin(self, group: EpisodeGroup, seed: int) -> LatestSession:
        return LatestSession(group.task)

    def act(self, sessions: Sequence[LatestSession]) -> list[np.ndarray]:
        return [self._known[s.task].actions(s.observations) for s in sessions]

    def spec(self, task: str) -> TaskSpec:
        return self._specs.get(task) or self._known[task].spec
