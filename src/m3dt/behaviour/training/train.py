"""Train behaviour policies with PPO on many simulations at once (stable-baselines3).

A folder a task holds everything: `checkpoint.zip` and `normalizer.pkl` to resume from, a snapshot
of the policy every so often under `snapshots/`, and `progress.csv`.
"""

from __future__ import annotations

import csv
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from m3dt.behaviour.network import Network, save_networks
from m3dt.behaviour.training.pack import PROGRESS, SNAPSHOTS, best_return
from m3dt.behaviour.training.recipes import Recipe
from m3dt.behaviour.training.simulation import simulate
from m3dt.files import atomic_path
from m3dt.tasks import TaskSpec

CHECKPOINT, NORMALIZER = "checkpoint.zip", "normalizer.pkl"
_TEST_EPISODES = 32


class SimulatedVecEnv(VecEnv):
    """Simulations of one task as stable-baselines3 knows environments.

    Episodes are as long as the task's horizon, which is a truncation; the first ones are cut short
    at random so that simulations do not end all at once.
    """

    def __init__(self, spec: TaskSpec, num: int, seed: int) -> None:
        self.simulation = simulate(spec, num, 1, seed, shaped=True)
        self._share_at_last = self.simulation.exploring_share
        self._horizon = spec.horizon
        self._rng = np.random.default_rng((seed, 1))
        self._steps: np.ndarray = np.zeros(num, int)
        observations = Box(-np.inf, np.inf, (self.simulation.input_dim,), np.float32)
        super().__init__(num, observations, Box(-1.0, 1.0, (spec.action_dim,), np.float32))

    def reset(self) -> np.ndarray:
        self._steps = np.asarray(self._rng.integers(0, self._horizon, self.num_envs))
        return self.simulation.begin(np.arange(self.num_envs)).astype(np.float32)

    def explore(self, alone: bool) -> None:
        """Begin all episodes in exploring starts from now on, or only the usual share."""
        if self._share_at_last:
            self.simulation.exploring_share = 1.0 if alone else self._share_at_last

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        outcome = self.simulation.step(self._actions)
        inputs = outcome.inputs.astype(np.float32)
        self._steps += 1
        truncated = self._steps >= self._horizon
        done = truncated | outcome.fallen
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = np.flatnonzero(done)
        if len(ended):
            for i in ended:
                infos[i] = {
                    "terminal_observation": inputs[i].copy(),
                    "TimeLimit.truncated": bool(truncated[i] and not outcome.fallen[i]),
                }
            inputs[ended] = self.simulation.begin(ended)
            self._steps[ended] = 0
        return inputs, outcome.rewards.astype(np.float32), done, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kw: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def extract(model: PPO, normalizer: VecNormalize) -> Network:
    """Return the deterministic part of a PPO policy."""
    layers = [m for m in model.policy.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)]
    layers.append(model.policy.action_net)
    return Network(
        normalizer.obs_rms.mean.astype(np.float32),
        np.sqrt(normalizer.obs_rms.var + normalizer.epsilon).astype(np.float32),
        tuple(layer.weight.detach().numpy().copy() for layer in layers),
        tuple(layer.bias.detach().numpy().copy() for layer in layers),
    )


def simulated_return(spec: TaskSpec, network: Network, seed: int = 1) -> float:
    """Return the mean episode return of a policy without noise, in simulation."""
    simulation = simulate(spec, _TEST_EPISODES, 1, seed)
    inputs = simulation.begin(np.arange(_TEST_EPISODES))
    total, alive = np.zeros(_TEST_EPISODES), np.ones(_TEST_EPISODES, bool)
    for _ in range(spec.horizon):
        outcome = simulation.step(network(inputs))
        total += outcome.rewards * alive
        alive &= ~outcome.fallen
        inputs = outcome.inputs
    return float(total.mean())


class _Keeper(BaseCallback):
    """Saves a snapshot and a checkpoint every so many steps, and ends the exploring phase."""

    def __init__(self, spec: TaskSpec, folder: Path, recipe: Recipe, env: SimulatedVecEnv) -> None:
        super().__init__()
        self.spec, self.folder, self.env = spec, folder, env
        self.recipe = recipe
        self.finished = False
        self.every = recipe.steps // recipe.snapshots
        self.started = time.monotonic()

    def _on_rollout_start(self) -> None:
        """Save between two updates, where a resumed training begins."""
        steps, recipe = self.num_timesteps, self.recipe
        self.env.explore(alone=steps < recipe.exploring_steps)
        grown = min(steps / recipe.gravity_steps, 1.0)
        self.env.simulation.weigh(recipe.gravity + (1 - recipe.gravity) * grown)
        number = self.num_timesteps // self.every
        path = self.folder / SNAPSHOTS / f"{number:04d}.safetensors"
        if path.exists():
            return
        normalizer = self.model.get_vec_normalize_env()
        assert normalizer is not None and isinstance(self.model, PPO)
        network = extract(self.model, normalizer)
        score = simulated_return(self.spec, network)
        with atomic_path(self.folder / CHECKPOINT) as temporary:
            with temporary.open("wb") as file:
                self.model.save(file)
        with atomic_path(self.folder / NORMALIZER) as temporary:
            normalizer.save(str(temporary))
        seconds = round(time.monotonic() - self.started)
        with (self.folder / PROGRESS).open("a") as file:
            csv.writer(file).writerow((number, self.num_timesteps, seconds, round(score, 2)))
        save_networks(path, {"policy": network})
        print(f"{self.spec.name} {self.num_timesteps} steps {seconds} s: {score:.1f}", flush=True)

        self.finished = score >= self.recipe.enough

    def _on_step(self) -> bool:
        return not self.finished


def _start_from(folder: Path, model: PPO, normalizer: VecNormalize) -> None:
    """Copy policy, value and input statistics of a training that has ended."""
    trained = PPO.load(folder / CHECKPOINT, device="cpu")
    model.policy.load_state_dict(trained.policy.state_dict())
    with (folder / NORMALIZER).open("rb") as file:
        normalizer.obs_rms = pickle.load(file).obs_rms  # written by ourselves


def train(spec: TaskSpec, folder: Path, recipe: Recipe, seed: int = 0) -> None:
    """Train one policy, resuming what the folder holds."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    env = SimulatedVecEnv(spec, recipe.num_envs, seed)
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        normalizer = VecNormalize.load(str(folder / NORMALIZER), env)
        model = PPO.load(checkpoint, normalizer, device="cpu")
    else:
        normalizer = VecNormalize(env, gamma=recipe.gamma)
        model = PPO(
            "MlpPolicy",
            normalizer,
            learning_rate=lambda left: recipe.learning_rate * max(left, 0.1),
            n_steps=recipe.rollout_steps,
            batch_size=recipe.batch_size,
            n_epochs=recipe.epochs,
            gamma=recipe.gamma,
            gae_lambda=0.95,
            ent_coef=recipe.entropy,
            max_grad_norm=0.5,
            use_sde=recipe.sde_steps > 0,
            sde_sample_freq=recipe.sde_steps or -1,
            seed=seed,
            device="cpu",
            policy_kwargs={"net_arch": list(recipe.widths), "log_std_init": recipe.log_std},
        )
        if recipe.start_from:
            _start_from(folder.parent / recipe.start_from, model, normalizer)
    left = recipe.steps - model.num_timesteps
    if left > 0 and best_return(folder) < recipe.enough:
        keeper = _Keeper(spec, folder, recipe, env)
        model.learn(left, callback=keeper, reset_num_timesteps=False)
        if not keeper.finished:
            keeper.on_rollout_start()
