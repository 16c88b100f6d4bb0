"""The trained policies that come with the package, or a folder of the user's own.

One file a policy: the snapshots of a training in the order of their returns, and the best.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from m3dt.behaviour.network import Network, load_networks
from m3dt.behaviour.policy_input import input_dim
from m3dt.tasks import TaskSpec
from m3dt.utils.errors import UserError
from m3dt.utils.files import sha256, write_json

BEST = "best"
SHIPPED = Path(__file__).parent / "trained"
RECORD = "policies.json"


def policy_name(spec: TaskSpec) -> str:
    """Return the name of the policy that plays a task: all goals of a robot share one."""
    return spec.name if spec.goal is None else spec.domain


class Library:
    """A folder of trained policies, looked at before those of the package."""

    def __init__(self, folder: str | Path = "") -> None:
        """Name the folders to look into.

        Raises:
            UserError: A folder is named that is not there.
        """
        if folder and not Path(folder).is_dir():
            raise UserError(f"{folder}: no folder of behaviour policies here")
        self.folders = ([Path(folder)] if folder else []) + [SHIPPED]

    def path(self, spec: TaskSpec) -> Path:
        """Return the file of a task's policies.

        Raises:
            UserError: There is none.
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
        """Return a task's networks, snapshots first and then the best.

        Raises:
            UserError: There are none, or they are damaged or of another task.
        """
        path = self.path(spec)
        try:
            networks = load_networks(path)
            widths = {(len(net.mean), len(net.biases[-1])) for net in networks.values()}
            expected = (input_dim(spec), spec.action_dim)
            if BEST not in networks or widths != {expected}:
                raise ValueError(f"inputs and actions {widths}, expected {expected}")
        except (SafetensorError, OSError, KeyError, ValueError, IndexError) as error:
            raise UserError(f"{path}: not the policies of {spec.name} ({error})") from None
        return dict(sorted(networks.items(), key=lambda item: (item[0] == BEST, item[0])))

    def checksum(self, spec: TaskSpec) -> str:
        """Return the SHA-256 of a task's policies."""
        return sha256(self.path(spec))


def read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """Return how the policies of a folder were trained, by policy."""
    path = folder / RECORD
    return json.loads(path.read_text()) if path.is_file() else {}


def write_record(folder: Path, record: dict[str, dict[str, Any]]) -> None:
    """Write how the policies of a folder were trained, in the order of their names."""
    write_json(folder / RECORD, dict(sorted(record.items())))
