"""Collect the trajectories of one task."""

from __future__ import annotations

import numpy as np

from m3dt.behaviour import Ladder, Library, Player
from m3dt.data.format import NUM_PROMPTS, Provenance
from m3dt.tasks import TaskSpec, Trajectory

_MAX_ATTEMPTS = 5  # per demonstration


def provenance(spec: TaskSpec, seed: int, library: Library) -> Provenance:
    """Describe how a task's trajectories are collected, for the dataset's index.

    Raises:
        UserError: The task has no behaviour policy.
    """
    return {"seed": seed, **Ladder(spec, library).describe()}


class TaskCollector:
    """Plays the trajectories of one task; each is a pure function of (seed, task, number)."""

    def __init__(self, spec: TaskSpec, seed: int, library: Library) -> None:
        self.spec = spec
        self.seed = seed
        self.player = Player(spec, library)

    def trajectory(self, number: int, count: int) -> Trajectory:
        """Play trajectory `number` of `count`.

        The last ones are demonstrations, used as prompts. The others are divided evenly among the
        rungs of the task's ladder, in shuffled order.
        """
        if number >= count - NUM_PROMPTS:
            return self._demonstration(number)
        rungs = self.player.ladder.rungs
        order = self._rng(0).permutation(count - NUM_PROMPTS)
        rung = rungs[order[number] * len(rungs) // len(order)]
        return self.player.play(rung, self._rng(1, number))

    def _demonstration(self, number: int) -> Trajectory:
        """Play the best policy without noise, so that the prompt shows the task being solved.

        In Meta-World, return the first success. The other domains define no success: return the
        attempt with the highest return.
        """
        attempts: list[Trajectory] = []
        while len(attempts) < _MAX_ATTEMPTS and not (attempts and attempts[-1].success):
            rng = self._rng(2, number, len(attempts))
            attempts.append(self.player.play(self.player.ladder.best, rng))
        if self.spec.domain == "metaworld":
            return attempts[-1]
        return max(attempts, key=lambda trajectory: trajectory.episode_return)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *self.spec.name.encode(), *key))
