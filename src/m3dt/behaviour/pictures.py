"""Pictures of tasks as their best behaviour plays them."""

from __future__ import annotations

import warnings

import numpy as np

from m3dt.behaviour.ladder import Rung
from m3dt.behaviour.library import Library
from m3dt.behaviour.player import Player
from m3dt.tasks import get_task


def picture(task: str, steps: int = 30, library: Library | None = None) -> np.ndarray:
    """Return what a task looks like after some steps of its best behaviour, (H, W, 3) uint8.

    Args:
        task: Name of the task.
        steps: How far into the episode.
        library: Where the policies come from; by default the package.

    Raises:
        UserError: The task is unknown, has no policy, or rendering is off.
    """
    player = Player(get_task(task), library or Library())
    rung: Rung = player.ladder.best
    policy = player.ladder.policy(rung)
    observation, _ = player.env.reset(seed=0)
    policy.begin()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scripts exceed [-1, 1]; we clip
        for _ in range(steps):
            observation, *_ = player.env.step(policy.act(observation, success=False))
    frame = player.env.render()
    player.env.close()
    return frame
