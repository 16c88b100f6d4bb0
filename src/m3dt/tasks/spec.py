"""The specification of a task (paper section 3 and appendix A)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Packages whose versions determine how a task behaves.
SIMULATORS = ("metaworld", "dm_control", "gymnasium", "mujoco")
DOMAINS = ("metaworld", "dmcontrol", "cheetah-vel", "ant-dir")


@dataclass(frozen=True)
class TaskSpec:
    """One of the 160 tasks.

    Attributes:
        name: Name in the paper, such as `reach-v2`.
        domain: One of `DOMAINS`.
        state_dim: Length of an observation, at most 39.
        action_dim: Length of an action, at most 8; actions lie in [-1, 1].
        horizon: Largest number of agent steps in an episode.
        target_return: Return that the paper's evaluation conditions on.
        return_scale: Returns are divided by it before they enter the model.
        env_id: Name in the simulator, such as `reach-v3`.
        goal: Velocity in m/s (cheetah-vel), direction in radians (ant-dir), or None.
    """

    name: str
    domain: str
    state_dim: int
    action_dim: int
    horizon: int
    target_return: float
    return_scale: float
    env_id: str
    goal: float | None = None

    def normalized_score(self, episode_return: float, success: bool) -> float:
        """Return an episode's score from 0 to 100 (paper section 5.1).

        Meta-World tasks score 100 if any step was a success. DMControl divides the return by its
        maximum of 1000. The locomotion domains map their range of returns to [0, 100] and clip.
        """
        if self.domain == "metaworld":
            return 100.0 * success
        if self.domain == "dmcontrol":
            return episode_return / 10
        if self.domain == "cheetah-vel":
            return float(np.clip((episode_return + 100) / 0.7, 0, 100))
        return float(np.clip(episode_return / 5, 0, 100))
