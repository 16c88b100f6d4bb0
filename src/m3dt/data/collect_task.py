"""The trajectories of one task of a dataset."""

from __future__ import annotations

from typing import Any

import numpy as np

from m3dt.behaviour import Ladder, Library, Player
from m3dt.data.format import NUM_PROMPTS
from m3dt.tasks import TaskSpec, Trajectory

_ATTEMPTS = 5  # of a demonstration


def made_by(spec: TaskSpec, seed: int, library: Library) -> dict[str, Any]:
    """Describe the behaviour of a task, for the dataset's index."""
    return {"seed": seed, **Ladder(spec, library).describe()}


class Collector:
    """Plays the trajectories of one task, each a pure function of (seed, task, its number)."""

    def __init__(self, spec: TaskSpec, seed: int, library: Library) -> None:
        self.spec = spec
        self.seed = seed
        self.player = Player(spec, library)

    def trajectory(self, number: int, count: int) -> Trajectory:
        """Play trajectory `number` of `count`; the last ones, the prompts, are noiseless.

        The others are spread evenly over the rungs of the task's ladder, in shuffled order.
        """
        if number >= count - NUM_PROMPTS:
            return self._demonstration(number)
        rungs = self.player.ladder.rungs
        order = self._rng(0).permutation(count - NUM_PROMPTS)
        rung = rungs[order[number] * len(rungs) // len(order)]
        return self.player.play(rung, self._rng(1, number))

    def _demonstration(self, number: int) -> Trajectory:
        """Play without noise, again on failure: a prompt should show the task being solved.

        Meta-World's first success serves; of the others, who know none, the best of all attempts.
        """
        attempts: list[Trajectory] = []
        while len(attempts) < _ATTEMPTS and not (attempts and attempts[-1].success):
            rng = self._rng(2, number, len(attempts))
            attempts.append(self.player.play(self.player.ladder.best, rng))
        if self.spec.domain == "metaworld":
            return attempts[-1]
        return max(attempts, key=lambda trajectory: trajectory.episode_return)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *self.spec.name.encode(), *key))
