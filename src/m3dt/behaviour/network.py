"""Small policy networks in NumPy: their input and their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from m3dt.tasks import TaskSpec
from m3dt.utils.files import atomic_path

_CLIP = 10.0  # bound of the normalised inputs, as in training
_CHEETAH_INPUT = 17  # joint angles and velocities, without the position in the world
_ANT_QUATERNION, _ANT_VELOCITY = slice(1, 5), slice(13, 15)


def input_dim(spec: TaskSpec) -> int:
    """Return the length of a task's policy input."""
    return policy_input(spec, np.zeros(spec.state_dim), np.zeros(())).shape[-1]


def policy_input(spec: TaskSpec, observations: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the input of a task's behaviour policy, (..., input_dim).

    Exact symmetries are removed, so that one policy covers all their cases. The ant's world is
    rotated so that its goal points along x, and the reacher's target is expressed in the frame of
    its first link. For the cheetah, the goal is appended. Other observations stay unchanged.
    Observations are (..., S). Each has its own goal, (...), which is ignored for DMControl.
    """
    if spec.domain == "cheetah-vel":
        return np.concatenate((observations[..., :_CHEETAH_INPUT], goal[..., None]), axis=-1)
    if spec.domain == "ant-dir":
        return _rotate_ant(observations, goal)
    if spec.name.startswith("reacher"):
        return _rotate_reacher(observations, spec.action_dim)
    return observations


def _rotate(vector: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotate vectors (..., 2) by angles in radians, (...)."""
    x, y = np.moveaxis(vector, -1, 0)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack((c * x - s * y, s * x + c * y), axis=-1)


def _rotate_ant(observations: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Rotate the orientation and the horizontal velocity by -goal about z."""
    result = observations.copy()
    w, x, y, z = np.moveaxis(observations[..., _ANT_QUATERNION], -1, 0)
    c, s = np.cos(goal / 2), -np.sin(goal / 2)
    rotated = np.stack((c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w), axis=-1)
    # A quaternion and its negative are the same orientation; keep the one with w >= 0.
    result[..., _ANT_QUATERNION] = np.where(rotated[..., :1] < 0, -rotated, rotated)
    result[..., _ANT_VELOCITY] = _rotate(observations[..., _ANT_VELOCITY], -goal)
    return result


def _rotate_reacher(observations: np.ndarray, num_joints: int) -> np.ndarray:
    """Rotate the vector to the target into the frame of the first link; drop that joint's angle."""
    target = slice(num_joints, num_joints + 2)
    rotated = _rotate(observations[..., target], -observations[..., 0])
    before, after = observations[..., 1:num_joints], observations[..., num_joints + 2 :]
    return np.concatenate((before, rotated, after), axis=-1)


@dataclass(frozen=True)
class Network:
    """A multilayer perceptron with tanh units over normalised inputs."""

    mean: np.ndarray  # (input_dim,), of the inputs during training
    std: np.ndarray  # (input_dim,)
    weights: tuple[np.ndarray, ...]  # (out, in), one per layer
    biases: tuple[np.ndarray, ...]  # (out,), one per layer

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the mean action in [-1, 1], (..., A), for inputs (..., input_dim)."""
        hidden = np.clip((inputs - self.mean) / self.std, -_CLIP, _CLIP)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.tanh(hidden @ weight.T + bias)
        return np.clip(hidden @ self.weights[-1].T + self.biases[-1], -1.0, 1.0)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the parameters by name: statistics in float32, layers in float16."""
        named = {"mean": self.mean.astype(np.float32), "std": self.std.astype(np.float32)}
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            named[f"{i}.weight"] = weight.astype(np.float16)
            named[f"{i}.bias"] = bias.astype(np.float16)
        return named

    @classmethod
    def from_tensors(cls, named: dict[str, np.ndarray]) -> Network:
        layers = sum(name.endswith(".weight") for name in named)
        return cls(
            named["mean"],
            named["std"],
            tuple(named[f"{i}.weight"].astype(np.float32) for i in range(layers)),
            tuple(named[f"{i}.bias"].astype(np.float32) for i in range(layers)),
        )


def save_networks(path: Path, networks: dict[str, Network]) -> None:
    """Write named networks to one file, atomically."""
    tensors = {
        f"{name}/{key}": value
        for name, network in networks.items()
        for key, value in network.tensors().items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def load_networks(path: Path) -> dict[str, Network]:
    """Read the networks of a file, sorted by name."""
    grouped: dict[str, dict[str, np.ndarray]] = {}
    for name, value in sorted(load_file(path).items()):
        network, key = name.split("/", 1)
        grouped.setdefault(network, {})[key] = value
    return {name: Network.from_tensors(tensors) for name, tensors in grouped.items()}
