"""Trained policies on disk: those that come with the package, and a folder of the user's own.

There is one file per policy. It holds the best network and snapshots of its training, ordered by
return.
"""

import json
from pathlib import Path
from typing import Any, TypedDict

from safetensors import SafetensorError

from m3dt.behaviour.network import Network, input_dim, load_networks
from m3dt.tasks import TaskSpec
from m3dt.utils.errors import UserError
from m3dt.utils.files import reading, sha256, write_json
from m3dt.utils.paths import user_path

BEST = "best"
SHIPPED = Path(__file__).parent / "trained"
RECORD = "policies.json"


class PolicyRecord(TypedDict):
    """How one policy was trained, and its returns in the real environment."""

    command: str
    recipe: dict[str, Any]
    """The fields of `Recipe`."""
    seed: int
    seconds: int
    rungs: dict[str, dict[str, float]]
    """`steps` and `simulated_return` of each network."""
    return_mean: float
    return_std: float
    return_quartiles: list[float]
    """Smallest, 25 %, median, 75 % and largest return."""


def policy_name(spec: TaskSpec) -> str:
    """Return the name of a task's policy; all goals of a locomotion domain share one."""
    return spec.name if spec.goal is None else spec.domain


class Library:
    """The trained policies of a folder, and those of the package for all other tasks."""

    def __init__(self, folder: str | Path = "") -> None:
        """Set the folders to search; an empty `folder` means the package alone.

        Raises:
            UserError: The folder does not exist.
        """
        own = [user_path(folder)] if folder else []
        if own and not own[0].is_dir():
            raise UserError(f"{own[0]}: no folder of behaviour policies here")
        self.folders = [*own, SHIPPED]

    def path(self, spec: TaskSpec) -> Path:
        """Return the file of a task's networks.

        Raises:
            UserError: There is no such file.
        """
        name = f"{policy_name(spec)}.safetensors"
        for folder in self.folders:
            if (folder / name).is_file():
                return folder / name
        raise UserError(
            f"no behaviour policy for '{spec.name}' in {', '.join(map(str, self.folders))}: "
            f"train one with `m3dt behaviour train {spec.name}`"
        )

    def networks(self, spec: TaskSpec) -> dict[str, Network]:
        """Return a task's networks by name: the snapshots, then the best.

        Raises:
            UserError: There is no file, or it is damaged or belongs to another task.
        """
        path = self.path(spec)
        try:
            with reading(path):
                networks = load_networks(path)
            widths = {(len(net.mean), len(net.biases[-1])) for net in networks.values()}
            expected = (input_dim(spec), spec.action_dim)
            if BEST not in networks or widths != {expected}:
                raise ValueError(f"inputs and actions {widths}, expected {expected}")
        except UserError:
            raise
        except (SafetensorError, KeyError, ValueError, IndexError) as error:
            raise UserError(f"{path}: not the policies of {spec.name} ({error})") from None
        return dict(sorted(networks.items(), key=lambda item: (item[0] == BEST, item[0])))

    def checksum(self, spec: TaskSpec) -> str:
        """Return the SHA-256 of the file of a task's networks."""
        return sha256(self.path(spec))


def read_record(folder: Path) -> dict[str, PolicyRecord]:
    """Return how the policies of a folder were trained, by name."""
    path = folder / RECORD
    return json.loads(path.read_text()) if path.is_file() else {}


def write_record(folder: Path, record: dict[str, PolicyRecord]) -> None:
    """Write how the policies of a folder were trained, sorted by name."""
    write_json(folder / RECORD, dict(sorted(record.items())))
