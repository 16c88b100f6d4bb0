"""Train behaviour policies with PPO on many simulations at once (stable-baselines3).

A folder a task holds everything: `checkpoint.zip` and `normalizer.pkl` to resume from, a snapshot
of the policy every so often under `snapshots/`, and `progress.csv`.
"""

from __future__ import annotations

import csv
import json
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from m3dt.behaviour.learning.environments import SimulatedVecEnv
from m3dt.behaviour.learning.pack import PROGRESS, SETTINGS, SNAPSHOTS, best_return, read_progress
from m3dt.behaviour.learning.recipes import Recipe
from m3dt.behaviour.learning.simulation import simulate
from m3dt.behaviour.network import Network, save_networks
from m3dt.tasks import TaskSpec
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, write_json
from m3dt.utils.processes import single_threaded

Tell = Callable[[str], None]
CHECKPOINT, NORMALIZER = "checkpoint.zip", "normalizer.pkl"
_TEST_EPISODES = 64


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
    """Saves a snapshot and a checkpoint every so many steps, and lets gravity grow."""

    def __init__(
        self, spec: TaskSpec, folder: Path, recipe: Recipe, env: SimulatedVecEnv, tell: Tell
    ) -> None:
        super().__init__()
        self.spec, self.folder, self.recipe, self.env, self.tell = spec, folder, recipe, env, tell
        self.every = recipe.steps // recipe.snapshots
        self.started = time.monotonic()
        if (folder / PROGRESS).exists():
            self.started -= read_progress(folder)[-1].seconds
        self.finished = False

    def _on_rollout_start(self) -> None:
        """Save between two updates, where a resumed training begins."""
        recipe = self.recipe
        grown = min(self.num_timesteps / recipe.gravity_steps, 1.0)
        self.env.simulation.weigh(recipe.gravity + (1 - recipe.gravity) * grown)
        path = self.folder / SNAPSHOTS / f"{self.num_timesteps // self.every:04d}.safetensors"
        if not path.exists():
            self.finished = self._save(path) >= recipe.enough

    def _save(self, path: Path) -> float:
        normalizer = self.model.get_vec_normalize_env()
        assert normalizer is not None and isinstance(self.model, PPO)
        network = extract(self.model, normalizer)
        score = simulated_return(self.spec, network)
        with atomic_path(self.folder / NORMALIZER) as temporary:
            normalizer.save(str(temporary))
        with atomic_path(self.folder / CHECKPOINT) as temporary, temporary.open("wb") as file:
            self.model.save(file)
        seconds = round(time.monotonic() - self.started)
        with (self.folder / PROGRESS).open("a") as file:
            row = (int(path.stem), self.num_timesteps, seconds, round(score, 2))
            csv.writer(file).writerow(row)
        save_networks(path, {"policy": network})
        self.tell(f"{self.num_timesteps:,} steps, {seconds} s: return {score:.1f}")
        return score

    def _on_step(self) -> bool:
        return not self.finished


def _start_from(folder: Path, model: PPO, normalizer: VecNormalize) -> None:
    """Copy policy, value and input statistics of a training that has ended."""
    if not (folder / CHECKPOINT).exists():
        raise UserError(f"{folder}: nothing to start from. Train {folder.name} first.")
    trained = PPO.load(folder / CHECKPOINT, device="cpu")
    model.policy.load_state_dict(trained.policy.state_dict())
    with (folder / NORMALIZER).open("rb") as file:
        normalizer.obs_rms = pickle.load(file).obs_rms  # written by ourselves


def train(
    spec: TaskSpec, folder: Path, recipe: Recipe, seed: int = 0, tell: Tell = lambda line: None
) -> None:
    """Train one policy, resuming what the folder holds.

    Args:
        spec: The task; any goal of a robot stands for all of them.
        folder: Where the training lives.
        recipe: Its settings.
        seed: Of initial states, networks and noise.
        tell: Receives a line at every snapshot.

    Raises:
        UserError: The recipe continues from a training that is not beside this one, or the folder
            holds a training of another recipe or seed.
    """
    _settle(folder, recipe, seed)
    env = SimulatedVecEnv(spec, recipe.num_envs, seed)
    if (folder / CHECKPOINT).exists():  # the normaliser was written before it
        normalizer = VecNormalize.load(str(folder / NORMALIZER), env)
        model = PPO.load(folder / CHECKPOINT, normalizer, device="cpu")
    else:
        normalizer = VecNormalize(env, gamma=recipe.gamma)
        model = _new_model(normalizer, recipe, seed)
        if recipe.start_from:
            _start_from(folder.parent / recipe.start_from, model, normalizer)
    left = recipe.steps - model.num_timesteps
    if left > 0 and best_return(folder) < recipe.enough:
        keeper = _Keeper(spec, folder, recipe, env, tell)
        with single_threaded():
            model.learn(left, callback=keeper, reset_num_timesteps=False)
        if not keeper.finished:
            keeper.on_rollout_start()


def _settle(folder: Path, recipe: Recipe, seed: int) -> None:
    """Write down what a training is, or check that the folder's is the same."""
    settings = {"recipe": asdict(recipe), "seed": seed}
    path = folder / SETTINGS
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
    elif json.loads(path.read_text()) != json.loads(json.dumps(settings)):
        raise UserError(
            f"{folder}: holds a training of another recipe or seed. Give another --folder, or "
            "delete this one."
        )


def _new_model(normalizer: VecNormalize, recipe: Recipe, seed: int) -> PPO:
    return PPO(
        "MlpPolicy",
        normalizer,
        learning_rate=lambda left: recipe.learning_rate * max(left, 0.1),
        n_steps=recipe.rollout_steps,
        batch_size=recipe.batch_size,
        n_epochs=recipe.epochs,
        gamma=recipe.gamma,
        gae_lambda=0.95,
        max_grad_norm=0.5,
        seed=seed,
        device="cpu",
        policy_kwargs={"net_arch": list(recipe.widths), "log_std_init": recipe.log_std},
    )
