"""What is known of a task before it is simulated (paper section 3 and appendix A)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The packages whose versions decide how a task behaves.
SIMULATORS = ("metaworld", "dm_control", "gymnasium", "mujoco")
DOMAINS = ("metaworld", "dmcontrol", "cheetah-vel", "ant-dir")


@dataclass(frozen=True)
class TaskSpec:
    """One of the 160 tasks.

    Attributes:
        name: The paper's name, such as `reach-v2`.
        domain: One of `DOMAINS`.
        state_dim: Length of an observation, at most 39.
        action_dim: Length of an action, at most 8; each entry lies in [-1, 1].
        horizon: Agent steps of an episode.
        target_return: Return the paper's evaluation asks for.
        return_scale: Divisor of returns before they enter the model.
        env_id: Name of the task in its simulator, such as `reach-v3`.
        goal: Velocity in m/s (cheetah-vel) or direction in radians (ant-dir), else None.
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
        """Score one episode between 0 and 100 (paper section 5.1).

        Meta-World counts success at any step; DMControl divides the return by its maximum of 1000;
        the locomotion domains map their range of returns to 0..100 and clip.
        """
        if self.domain == "metaworld":
            return 100.0 * success
        if self.domain == "dmcontrol":
            return episode_return / 10
        if self.domain == "cheetah-vel":
            return float(np.clip((episode_return + 100) / 0.7, 0, 100))
        return float(np.clip(episode_return / 5, 0, 100))
