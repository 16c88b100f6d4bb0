"""Play episodes of a task: record them, or take a picture."""

import warnings

import numpy as np

from m3dt.behaviour.ladder import RANDOM, Ladder, Rung
from m3dt.behaviour.library import Library
from m3dt.behaviour.policy import BehaviourPolicy, IdlePlayer
from m3dt.tasks import TaskSpec, Trajectory, get_task, make_env
from m3dt.tasks.envs import TaskEnv


class Player:
    """Plays the rungs of one task's ladder in its environment.

    Raises:
        UserError: The task has no behaviour policy.
    """

    def __init__(self, spec: TaskSpec, library: Library) -> None:
        self.spec = spec
        self.ladder = Ladder(spec, library)
        self.env = make_env(spec.name)

    def play(self, rung: Rung, rng: np.random.Generator) -> Trajectory:
        """Play one episode; the generator draws its initial state and all noise."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # scripts exceed [-1, 1]; we clip
            return play(self.env, self.ladder.policy(rung), rung, rng)


def play(env: TaskEnv, policy: BehaviourPolicy, rung: Rung, rng: np.random.Generator) -> Trajectory:
    """Play one episode of an environment, with the noise of a rung."""
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    policy.begin()
    in_phase = rung.noise.phases(env.task_spec.horizon, rng)
    observations: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    success = done = False
    while not done:
        action = rung.noise.apply(policy.act(observation, success), in_phase[len(actions)], rng)
        observations.append(observation)
        actions.append(action)
        observation, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        success |= info["success"]
        done = terminated or truncated
    return Trajectory(np.array(observations), np.array(actions), np.array(rewards), success)


def reference_return(spec: TaskSpec, episodes: int = 10) -> float | None:
    """Return the mean return of random actions, for a task whose score follows from the data.

    None for other tasks. The seeds of the episodes are fixed.
    """
    if spec.is_complete:
        return None
    env, idle = make_env(spec.name), IdlePlayer(spec)
    rngs = [np.random.default_rng((0, number)) for number in range(episodes)]
    returns = [play(env, idle, RANDOM, rng).episode_return for rng in rngs]
    env.close()
    return float(np.mean(returns))


def picture(task: str, steps: int = 30, library: Library | None = None) -> np.ndarray:
    """Return a frame after some steps of a task's best policy, (height, width, 3) uint8.

    The policies are the package's if no library is given.

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
