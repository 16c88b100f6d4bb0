"""Train a behaviour policy with PPO (stable-baselines3) on batched simulations.

The folder of a training contains `checkpoint.zip` and `normalizer.pkl` to resume from, its
`settings.json` and `progress.csv`, and snapshots of the policy in `snapshots/`.
"""

import csv
import json
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from m3dt.behaviour.learning.pack import (
    PROGRESS,
    SETTINGS,
    SNAPSHOTS,
    best_return,
    pack,
    read_progress,
)
from m3dt.behaviour.learning.recipes import RECIPES, Recipe
from m3dt.behaviour.learning.simulation import simulate
from m3dt.behaviour.learning.vec_env import SimulatedVecEnv
from m3dt.behaviour.library import policy_name
from m3dt.behaviour.network import Network, save_networks
from m3dt.tasks import TASKS, TaskSpec, get_task
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path, write_json
from m3dt.utils.processes import single_threaded

Log = Callable[[str], None]
CHECKPOINT, NORMALIZER = "checkpoint.zip", "normalizer.pkl"
_TEST_EPISODES = 64


def train(
    spec: TaskSpec, folder: Path, recipe: Recipe, seed: int = 0, log: Log = lambda line: None
) -> None:
    """Train one policy, or resume its training; `log` receives one line per snapshot.

    For locomotion, any goal stands for all of its domain.

    Raises:
        UserError: The recipe starts from another policy that is not in the same parent folder, or
            `folder` contains a training with another recipe or seed.
    """
    _check_settings(folder, recipe, seed)
    env = SimulatedVecEnv(spec, recipe.num_envs, seed)
    if (folder / CHECKPOINT).exists():  # the normaliser is written before the checkpoint
        normalizer = VecNormalize.load(str(folder / NORMALIZER), env)
        model = PPO.load(folder / CHECKPOINT, normalizer, device="cpu")
    else:
        normalizer = VecNormalize(env, gamma=recipe.gamma)
        model = _new_model(normalizer, recipe, seed)
        if recipe.start_from:
            _start_from(folder.parent / recipe.start_from, model, normalizer)
    remaining = recipe.steps - model.num_timesteps
    if remaining > 0 and best_return(folder) < recipe.enough:
        saver = _SnapshotSaver(spec, folder, recipe, env, log)
        with single_threaded():
            model.learn(remaining, callback=saver, reset_num_timesteps=False)
        if not saver.finished:
            saver.on_rollout_start()


def _check_settings(folder: Path, recipe: Recipe, seed: int) -> None:
    """Write the settings of a new training, or compare them with those of the folder's."""
    settings = {"recipe": asdict(recipe), "seed": seed}
    path = folder / SETTINGS
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
    elif json.loads(path.read_text()) != json.loads(json.dumps(settings)):
        raise UserError(
            f"{folder}: contains a training with another recipe or seed. Give another --folder, "
            "or delete this one."
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


def _start_from(folder: Path, model: PPO, normalizer: VecNormalize) -> None:
    """Copy policy, value function and input statistics from a finished training."""
    if not (folder / CHECKPOINT).exists():
        raise UserError(f"{folder}: no training to start from. Train {folder.name} first.")
    trained = PPO.load(folder / CHECKPOINT, device="cpu")
    model.policy.load_state_dict(trained.policy.state_dict())
    with (folder / NORMALIZER).open("rb") as file:
        normalizer.obs_rms = pickle.load(file).obs_rms  # we wrote this pickle ourselves


class _SnapshotSaver(BaseCallback):
    """Saves a snapshot and a checkpoint at regular intervals, and raises gravity as scheduled."""

    def __init__(
        self, spec: TaskSpec, folder: Path, recipe: Recipe, env: SimulatedVecEnv, log: Log
    ) -> None:
        super().__init__()
        self.spec, self.folder, self.recipe, self.env, self.log = spec, folder, recipe, env, log
        self.steps_per_snapshot = recipe.steps // recipe.snapshots
        before = read_progress(folder)
        self.started = time.monotonic() - (before[-1].seconds if before else 0)
        self.finished = False

    def _on_rollout_start(self) -> None:
        """Save between two updates, where a resumed training continues."""
        recipe = self.recipe
        progress = min(self.num_timesteps / recipe.gravity_steps, 1.0)
        gravity = recipe.gravity + (1 - recipe.gravity) * progress
        self.env.simulation.rollouts.scale_gravity(gravity)
        number = self.num_timesteps // self.steps_per_snapshot
        path = self.folder / SNAPSHOTS / f"{number:04d}.safetensors"
        if not path.exists():
            self.finished = self._save(path) >= recipe.enough

    def _save(self, path: Path) -> float:
        normalizer = self.model.get_vec_normalize_env()
        assert normalizer is not None and isinstance(self.model, PPO)
        network = extract(self.model, normalizer)
        mean_return = simulated_return(self.spec, network)
        with atomic_path(self.folder / NORMALIZER) as temporary:
            normalizer.save(str(temporary))
        with atomic_path(self.folder / CHECKPOINT) as temporary, temporary.open("wb") as file:
            self.model.save(file)
        seconds = round(time.monotonic() - self.started)
        with (self.folder / PROGRESS).open("a") as file:
            row = (int(path.stem), self.num_timesteps, seconds, round(mean_return, 2))
            csv.writer(file).writerow(row)
        save_networks(path, {"policy": network})
        self.log(f"{self.num_timesteps:,} steps, {seconds} s: return {mean_return:.1f}")
        return mean_return

    def _on_step(self) -> bool:
        return not self.finished


def extract(model: PPO, normalizer: VecNormalize) -> Network:
    """Return the network that computes a PPO policy's mean action."""
    layers = [m for m in model.policy.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)]
    layers.append(model.policy.action_net)
    return Network(
        normalizer.obs_rms.mean.astype(np.float32),
        np.sqrt(normalizer.obs_rms.var + normalizer.epsilon).astype(np.float32),
        tuple(layer.weight.detach().numpy().copy() for layer in layers),
        tuple(layer.bias.detach().numpy().copy() for layer in layers),
    )


def simulated_return(spec: TaskSpec, network: Network, seed: int = 1) -> float:
    """Return a network's mean episode return without noise, in simulation."""
    simulation = simulate(spec, _TEST_EPISODES, 1, seed)
    inputs = simulation.begin(np.arange(_TEST_EPISODES))
    total, alive = np.zeros(_TEST_EPISODES), np.ones(_TEST_EPISODES, bool)
    for _ in range(spec.horizon):
        step = simulation.step(network(inputs))
        total += step.rewards * alive
        alive &= ~step.terminated
        inputs = step.inputs
    return float(total.mean())


def trainable(names: Sequence[str]) -> list[TaskSpec]:
    """Return one task per policy; a name may be a policy's or one of its tasks'.

    Raises:
        UserError: A name is unknown, or its policy is a script.
    """
    specs: dict[str, TaskSpec] = {}
    for name in names:
        spec = next((s for s in TASKS.values() if policy_name(s) == name), None) or get_task(name)
        if spec.domain == "metaworld":
            raise UserError(f"'{name}' is played by Meta-World's own script: nothing to train")
        specs[policy_name(spec)] = spec
    return list(specs.values())


def train_and_pack(
    names: Sequence[str], folder: Path, library: Path, seed: int, console: Console
) -> None:
    """Train policies one after another, or resume them, and write their ladders.

    The names are of tasks or of policies. Each training has a subfolder of `folder`.

    Raises:
        UserError: A name cannot be trained, or a recipe starts from a policy that is missing.
    """
    for spec in trainable(names):
        name = policy_name(spec)
        train(spec, folder / name, RECIPES[name], seed, partial(_print_line, console, name))
        record = pack(spec, folder / name, library)
        console.print(
            f"{name}: return {record['return_mean']:.1f} +- {record['return_std']:.1f} without "
            f"noise, ladder in {library / f'{name}.safetensors'}"
        )


def _print_line(console: Console, name: str, line: str) -> None:
    console.print(f"  {name}: {line}")
