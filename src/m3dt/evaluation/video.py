"""Film an episode."""

import io
from typing import Any

import numpy as np
from PIL import Image

from m3dt.evaluation.policies import Policy
from m3dt.evaluation.sessions import EpisodeGroup, check_finite
from m3dt.tasks import make_env

_FRAMES_PER_SECOND = 20


def film(policy: Policy[Any], task: str, seed: int = 0, max_frames: int = 120) -> np.ndarray:
    """Play one episode and return evenly spaced frames, (frames, height, width, 3) uint8.

    It is the first episode of an evaluation with this seed.

    Raises:
        UserError: Rendering is off.
        RunError: An action is not finite.
    """
    env = make_env(task)
    group = EpisodeGroup(task, (0,))
    try:
        observation, _ = env.reset(seed=group.seeds(seed)[0])
        session = policy.begin(group, seed)
        frames, rewards, ended = [env.render()], None, False
        while not ended:
            session.observe(observation[None], rewards)
            ((action,),) = policy.act([session])
            check_finite("the action", action[None], group, len(frames) - 1)
            observation, reward, terminated, truncated, _ = env.step(action)
            rewards = np.array([reward])
            ended = terminated or truncated
            frames.append(env.render())
    finally:
        env.close()
    every = -(-len(frames) // max_frames)
    return np.stack(frames[::every])


def animation(frames: np.ndarray) -> bytes:
    """Encode frames as an animated GIF."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    pause = 1000 // _FRAMES_PER_SECOND
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=pause, loop=0)
    return buffer.getvalue()
