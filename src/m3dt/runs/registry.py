"""The registry of a run's models: weights, lineage and verification."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_folder, sha256, write_json
from m3dt.utils.paths import user_path
from m3dt.version import version_of

KINDS = ("backbone", "grouping", "expert", "router", "baseline")
MAIN = "main"  # name of a run's backbone, grouping and router
WEIGHTS, ENTRY = "weights.safetensors", "entry.json"
_PACKAGES = ("m3dt", "torch", "lightning", "numpy")


@dataclass(frozen=True)
class Entry:
    """The description of a registered model.

    Attributes:
        kind: One of `KINDS`.
        name: Unique within its kind; experts are numbered.
        settings: Configuration keys that the weights depend on.
        parents: Hash of the weights of each model it was trained on, by `kind/name`.
        dataset: Checksum of the training data.
        seed: Seed of the experiment.
        step: Number of optimiser steps.
        metrics: Measurements of the weights.
        tasks: Task names, in the order of the suite.
        files: SHA-256 of each file.
        versions: Versions of Python and the packages.
        commit: Commit of the source, if it runs from a checkout.
    """

    kind: str
    name: str
    settings: dict[str, Any]
    parents: dict[str, str]
    dataset: str
    seed: int
    step: int
    metrics: dict[str, Any]
    tasks: list[str]
    files: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None

    @property
    def key(self) -> str:
        """`kind/name`."""
        return f"{self.kind}/{self.name}"

    @property
    def hash(self) -> str:
        """SHA-256 of the weights."""
        return self.files[WEIGHTS]


class Registry:
    """The models of one run, in `<run>/registry/<kind>/<name>/`."""

    def __init__(self, run: str | Path) -> None:
        self.run = user_path(run)
        self.folder = self.run / "registry"

    def save(
        self, entry: Entry, weights: Mapping[str, Tensor], **extra: Mapping[str, Tensor]
    ) -> Entry:
        """Write an entry and its tensors, atomically.

        Args:
            entry: Description of the model; hashes, versions and commit are added here.
            weights: Its tensors.
            **extra: Further groups of tensors, written to `<keyword>.safetensors`.
        """
        assert entry.kind in KINDS, entry.kind
        with atomic_folder(self.folder / entry.kind / entry.name) as folder:
            for stem, tensors in {"weights": weights, **extra}.items():
                contiguous = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
                save_file(contiguous, folder / f"{stem}.safetensors")
            files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
            versions = {name: version_of(name) for name in _PACKAGES}
            known = {**asdict(entry), "files": files, "commit": _commit()}
            known["versions"] = {"python": platform.python_version(), **versions}
            write_json(folder / ENTRY, known)
        return Entry(**known)

    def has(self, kind: str, name: str) -> bool:
        """Return whether there is an entry, without verifying it."""
        return (self.folder / kind / name / ENTRY).is_file()

    def find(self, kind: str, name: str) -> Entry | None:
        """Verify and return an entry, or return None if there is none.

        Raises:
            UserError: The entry is damaged.
        """
        folder = self.folder / kind / name
        if not (folder / ENTRY).is_file():
            return None
        remedy = f"Delete {folder} and train it again."
        try:
            entry = Entry(**json.loads((folder / ENTRY).read_text()))
            if not isinstance(entry.files, dict) or not entry.files:
                raise ValueError("lists no files")
            damaged = [n for n, digest in entry.files.items() if sha256(folder / n) != digest]
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder}: damaged registry entry ({error}). {remedy}") from None
        if damaged:
            raise UserError(f"{folder / damaged[0]}: does not match its checksum. {remedy}")
        return entry

    def get(self, kind: str, name: str) -> Entry:
        """Verify and return an entry.

        Raises:
            UserError: It is missing or damaged.
        """
        entry = self.find(kind, name)
        if entry is None:
            here = ", ".join(e.key for e in self.entries()) or "nothing"
            raise UserError(f"{self.run}: no {kind}/{name} in its registry, which holds {here}.")
        return entry

    def tensors(self, entry: Entry, stem: str = "weights") -> dict[str, Tensor]:
        """Return the tensors of a verified entry."""
        path = self.folder / entry.kind / entry.name / f"{stem}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None

    def holds(self, hashes: Mapping[str, str]) -> bool:
        """Return whether the registry contains these models, by `kind/name`, with these hashes."""
        found = {key: self.find(*key.split("/")) for key in hashes}
        return all(e is not None and e.hash == hashes[key] for key, e in found.items())

    def adopt(self, other: Registry, entry: Entry) -> None:
        """Copy an entry of another run."""
        source = other.folder / entry.kind / entry.name
        with atomic_folder(self.folder / entry.kind / entry.name) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)

    def entries(self) -> list[Entry]:
        """Verify and return all entries, in the order of `KINDS` and of their names."""
        found = []
        for kind in KINDS:
            names = [p.parent.name for p in (self.folder / kind).glob(f"[!.]*/{ENTRY}")]
            for name in sorted(names, key=lambda n: (len(n), n)):
                found.append(self.get(kind, name))
        return found


def _commit() -> str | None:
    """Return the commit of the checkout that this package runs from, or None."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
