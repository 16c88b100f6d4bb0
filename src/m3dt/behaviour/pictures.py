"""Pictures of tasks, taken while the best policy plays."""

from __future__ import annotations

import warnings

import numpy as np

from m3dt.behaviour.library import Library
from m3dt.behaviour.player import Player
from m3dt.tasks import get_task


def picture(task: str, steps: int = 30, library: Library | None = None) -> np.ndarray:
    """Return a frame after some steps of a task's best policy, (height, width, 3) uint8.

    Args:
        task: Name of the task.
        steps: Number of steps before the frame.
        library: Source of the policies; by default the package.

    Raises:
        UserError: The task is unknown or has no policy, or rendering is off.
    """
    player = Player(get_task(task), library or Library())
    policy = player.ladder.policy(player.ladder.best)
    observation, _ = player.env.reset(seed=0)
    policy.begin()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scripts exceed [-1, 1]; we clip
        for _ in range(steps):
            observation, *_ = player.env.step(policy.act(observation, success=False))
    frame = player.env.render()
    player.env.close()
    return frame
