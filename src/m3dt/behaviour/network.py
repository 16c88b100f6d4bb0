"""Small policy networks in NumPy, and their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from m3dt.utils.files import atomic_path

_CLIP = 10.0  # bound of the normalised inputs, as in training


@dataclass(frozen=True)
class Network:
    """A multilayer perceptron with tanh units over normalised inputs.

    Attributes:
        mean, std: Statistics of the inputs during training, (input_dim,).
        weights: One matrix per layer, (out, in).
        biases: One vector per layer, (out,).
    """

    mean: np.ndarray
    std: np.ndarray
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]

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
