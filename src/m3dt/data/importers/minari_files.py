"""Reader of Minari's HDF5 files, of all versions.

`data/main_data.hdf5` has a group `episode_<i>` per episode. Metadata lie in `metadata.json` beside
it; before Minari 0.5 they were the file's attributes.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from m3dt.data.hdf5 import open_hdf5
from m3dt.data.importers.archives import LARGEST_EPISODE
from m3dt.data.importers.checks import checked_trajectory, numbers
from m3dt.tasks import TaskSpec, Trajectory, get_task
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError
from m3dt.utils.regular_files import regular_file

_MAIN, _METADATA = "main_data.hdf5", "metadata.json"
_SHOWN = 5  # datasets that a message names
_ARRAYS = ("actions", "rewards")
_EPISODE = re.compile(r"episode_(\d+)")


def read_minari(
    source: Path, names: Sequence[str], observation: Sequence[str] = ()
) -> Iterator[tuple[str, list[Trajectory]]]:
    """Read one Minari dataset as the task named.

    The source is the dataset's folder, the folder `data` in it, or a file in that. Observations
    that are a dictionary are flattened as gymnasium's `FlattenObservation` does: in the order of
    the dataset's observation space, or by name where it is not recorded. With `observation`, only
    these keys are taken, in this order; `a/b` is key b of the dictionary a. Actions are rescaled
    from the bounds of the dataset's action space to [-1, 1]. Minari stores the observation after
    the last action; it is dropped.

    Raises:
        UserError: There is no such dataset or key, it is damaged, or its arrays do not fit the
            task.
    """
    path = _main_file(source)
    if len(names) != 1:
        raise UserError("a Minari dataset holds one task: name it with --tasks TASK")
    spec = get_task(names[0])
    with open_hdf5(path, "Export the dataset again.") as file:
        space, actions = _spaces(path, file)
        trajectories = []
        for number, episode in _episodes(path, file):
            where = f"{source}, episode {number}"
            arrays = {name: _read(episode[name]) for name in _ARRAYS if name in episode}
            if "observations" in episode:
                observations = episode["observations"]
                arrays["observations"] = _flat(where, observations, space, spec, observation)[:-1]
            if "actions" in arrays:
                arrays["actions"] = _rescaled(arrays["actions"], actions)
            if "success" in episode.get("infos", ()):
                arrays["success"] = _read(episode["infos"]["success"])
            trajectories.append(checked_trajectory(spec, where, arrays))
    yield spec.name, trajectories


def _main_file(source: Path) -> Path:
    if source.suffix in (".hdf5", ".h5") and not source.is_dir():
        return source
    folder = source if source.is_dir() else source.parent
    for place in (folder, folder / "data"):
        if (place / _MAIN).exists():
            return place / _MAIN
        kind = _metadata(place).get("data_format", "hdf5")
        if kind != "hdf5":
            raise UserError(
                f"{source}: a Minari dataset in the format {kind}; only hdf5 is read. Convert it "
                "with pip install 'minari[arrow]' and the lines in docs/data.md."
            )
    raise UserError(
        f"{source}: no Minari dataset (expected data/{_MAIN} in it){_datasets_below(folder)}"
    )


def _datasets_below(root: Path) -> str:
    """Return the end of a message that names the first datasets in a folder such as Minari's root.

    It is empty if there are none.
    """
    patterns = (f"{'*/' * depth}data/{_MAIN}" for depth in (1, 2, 3))
    found = sorted(str(path.parents[1]) for pattern in patterns for path in root.glob(pattern))
    if len(found) < 2:
        return "".join(f"; below it is {path}: name that" for path in found)
    left = len(found) - _SHOWN
    *shown, last = found if left <= 0 else [*found[:_SHOWN], f"{left} more"]
    return f"; below it are {', '.join(shown)} and {last}: name one of them"


def _metadata(folder: Path) -> Mapping[str, Any]:
    """Return the content of a folder's metadata.json, or nothing if there is none."""
    path = folder / _METADATA
    try:
        content = json.loads(regular_file(path).read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}). Export the dataset again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected names with values. Export the dataset again.")
    return content


def _spaces(path: Path, file: h5py.File) -> list[Any]:
    """Return Minari's descriptions of the spaces of observations and actions, or None for each."""
    metadata = _metadata(path.parent) or file.attrs
    return [json.loads(metadata.get(f"{name}_space", "null")) for name in ("observation", "action")]


def _rescaled(actions: Any, space: Any) -> Any:
    """Return actions, (T, A), moved from their space's bounds to [-1, 1]."""
    if not isinstance(space, dict) or space.get("type") != "Box" or isinstance(actions, Mapping):
        return actions
    low, high = np.array(space["low"], np.float64), np.array(space["high"], np.float64)
    if not np.isfinite([low, high]).all() or ((low == -1) & (high == 1)).all():
        return actions
    return 2 * (actions - low) / (high - low) - 1


def _episodes(path: Path, file: h5py.File) -> Iterator[tuple[int, h5py.Group]]:
    found = sorted(int(match[1]) for match in map(_EPISODE.fullmatch, file) if match)
    missing = set(range(len(found))) - set(found)
    if missing:
        raise UserError(f"{path}: episode_{min(missing)} is missing; {len(found)} are there")
    for number in found:
        yield number, file[f"episode_{number}"]


def _read(item: Any) -> Any:
    """Return a dataset's values; groups, which are dictionaries, remain for the checks to name."""
    if not isinstance(item, h5py.Dataset):
        return item
    if item.nbytes > LARGEST_EPISODE:
        name = item.name.lstrip("/")
        raise ValueError(f"'{name}' takes {item.nbytes:,} bytes, more than {LARGEST_EPISODE:,}")
    return item[()]


def _flat(where: str, item: Any, space: Any, spec: TaskSpec, chosen: Sequence[str]) -> np.ndarray:
    """Return the observations of an episode as one array, (T + 1, S) unless it is damaged."""
    if isinstance(item, h5py.Dataset):
        if chosen:
            raise UserError(
                f"{where}: the observations are one array; leave out --observation {chosen[0]}"
            )
        return np.atleast_1d(_read(item))
    leaves = {leaf.name: leaf for leaf in _leaves(item, space)}
    missing = [key for key in chosen if not any(leaf.is_in(key) for leaf in leaves.values())]
    if missing:
        raise UserError(f"{where}: no observation '{missing[0]}'; there are {', '.join(leaves)}")
    taken = [name for key in chosen for name, leaf in leaves.items() if leaf.is_in(key)]
    parts = [leaves[name] for name in dict.fromkeys(taken or leaves)]
    width = sum(leaf.width for leaf in parts)
    if width != spec.state_dim:
        widths = ", ".join(f"{leaf.name} ({leaf.width})" for leaf in leaves.values())
        raise UserError(
            f"{where}: the observations are a dictionary of {widths}. {spec.name} has "
            f"{counted(spec.state_dim, 'number')}, not the {width} of "
            f"{' and '.join(leaf.name for leaf in parts)}: choose with --observation KEY."
        )
    return np.concatenate([leaf.rows(where) for leaf in parts], axis=1)


@dataclass(frozen=True)
class _Leaf:
    """An array in a dictionary of observations; `kind` is its space's type, if recorded."""

    name: str
    item: h5py.Dataset
    kind: str | None

    @property
    def width(self) -> int:
        return math.prod(self.item.shape[1:])

    def is_in(self, key: str) -> bool:
        return self.name == key or self.name.startswith(f"{key}/")

    def rows(self, where: str) -> np.ndarray:
        """Return its values, (T + 1, width)."""
        if self.kind not in (None, "Box", "MultiBinary"):  # gymnasium flattens others by codes
            raise UserError(
                f"{where}: the observation '{self.name}' is {self.kind}, not an array (Box). "
                "Choose others with --observation KEY."
            )
        array = numbers(where, f"observations/{self.name}", _read(self.item))
        return array.reshape(len(array), -1)


def _leaves(group: h5py.Group, space: Any, prefix: str = "") -> Iterator[_Leaf]:
    """Yield the arrays of a dictionary, depth first, in the order of its space."""
    subspaces = space.get("subspaces", {}) if isinstance(space, dict) else {}
    if isinstance(subspaces, list):  # of a tuple
        subspaces = {f"_index_{i}": subspace for i, subspace in enumerate(subspaces)}
    order = {key: place for place, key in enumerate(subspaces)}
    for key in sorted(group, key=lambda key: (order.get(key, len(order)), key)):
        item, subspace = group[key], subspaces.get(key)
        if isinstance(item, h5py.Group):
            yield from _leaves(item, subspace, f"{prefix}{key}/")
        else:
            yield _Leaf(f"{prefix}{key}", item, (subspace or {}).get("type"))
