"""The registry of a run's models: weights, lineage and verification."""

from __future__ import annotations

import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from m3dt.runs.entries import ENTRY, KINDS, WEIGHTS, Entry, read_entry
from m3dt.runs.model_card import write_card
from m3dt.runs.tensors import not_finite
from m3dt.utils.errors import RunError, UserError
from m3dt.utils.files import atomic_folder, exists, reading, sha256, write_json
from m3dt.utils.paths import user_path
from m3dt.utils.regular_files import regular_file
from m3dt.version import version_of

MAIN = "main"  # name of a run's backbone, grouping and router
BY_PROMPT = "prompt"  # name of a router that chooses experts by the prompt
_PACKAGES = ("m3dt", "torch", "lightning", "numpy")


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
            entry: Description of the model; hashes, versions, commit and digest are added here.
            weights: Its tensors.
            **extra: Further groups of tensors, written to `<keyword>.safetensors`.

        Raises:
            RunError: A tensor holds numbers that are not finite; nothing is written.
        """
        assert entry.kind in KINDS, entry.kind
        groups = {"weights": weights, **extra}
        for stem, tensors in groups.items():
            if problem := not_finite(tensors):
                raise RunError(
                    f"{self._place(entry)}: not registered, since {problem} in its {stem}. "
                    "Train again with a smaller learning rate, in another run=FOLDER."
                )
        with atomic_folder(self._place(entry)) as folder:
            for stem, tensors in groups.items():
                contiguous = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
                save_file(contiguous, folder / f"{stem}.safetensors")
            files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
            versions = {name: version_of(name) for name in _PACKAGES}
            versions = {"python": platform.python_version(), **versions}
            sealed = entry.sealed(files=files, commit=_commit(), versions=versions)
            write_json(folder / ENTRY, asdict(sealed))
        write_card(self.run)
        return sealed

    def _place(self, entry: Entry) -> Path:
        return self.folder / entry.kind / entry.name

    def has(self, kind: str, name: str) -> bool:
        """Return whether there is an entry, without verifying it."""
        with reading(self.folder):
            return exists(self.folder / kind / name / ENTRY)

    def find(self, kind: str, name: str) -> Entry | None:
        """Verify and return an entry, or return None if there is none.

        Raises:
            UserError: The entry is damaged, or the system refuses to read it.
        """
        if not self.has(kind, name):
            return None
        folder = self.folder / kind / name
        entry, remedy = read_entry(folder / ENTRY), f"Delete {folder} and train it again."
        for file, digest in entry.files.items():
            try:
                path = regular_file(folder / file)
            except FileNotFoundError:
                raise UserError(f"{folder}: lacks {file}. {remedy}") from None
            with reading(path):
                if sha256(path) != digest:
                    raise UserError(f"{path}: does not match its checksum. {remedy}")
        return entry

    def get(self, kind: str, name: str) -> Entry:
        """Verify and return an entry.

        Raises:
            UserError: It is missing or damaged, or the system refuses to read it.
        """
        entry = self.find(kind, name)
        if entry is None:
            here = ", ".join(e.key for e in self.entries()) or "nothing"
            raise UserError(f"{self.run}: no {kind}/{name} in its registry, which holds {here}.")
        return entry

    def file(self, entry: Entry, stem: str = "weights") -> Path:
        """Return the file of a group of tensors."""
        return self._place(entry) / f"{stem}.safetensors"

    def tensors(self, entry: Entry, stem: str = "weights") -> dict[str, Tensor]:
        """Return the tensors of a verified entry.

        Raises:
            UserError: They cannot be read, or hold numbers that are not finite.
        """
        path = self.file(entry, stem)
        with _reading_tensors(path):
            tensors = load_file(path)
        if problem := not_finite(tensors):
            raise UserError(f"{path}: {problem}. Delete {path.parent} and train it again.")
        return tensors

    def num_parameters(self, entry: Entry) -> int:
        """Count the parameters in the weights of an entry, by the header of their file.

        Raises:
            UserError: The file cannot be read.
        """
        path = self.file(entry)
        with _reading_tensors(path), safe_open(path, framework="pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())

    def holds(self, hashes: Mapping[str, str]) -> bool:
        """Return whether the registry contains these models, by `kind/name`, with these hashes."""
        found = {key: self.find(*key.split("/")) for key in hashes}
        return all(e is not None and e.hash == hashes[key] for key, e in found.items())

    def adopt(self, other: Registry, entry: Entry) -> None:
        """Copy an entry of another run."""
        with reading(other.folder), atomic_folder(self._place(entry)) as folder:
            shutil.copytree(other._place(entry), folder, dirs_exist_ok=True)
        write_card(self.run)

    def entries(self) -> list[Entry]:
        """Verify and return all entries, in the order of `KINDS` and of their names.

        Raises:
            UserError: One is damaged or was copied in part, or the system refuses to read it.
        """
        found = []
        for kind in KINDS:
            for name in sorted(self._names(kind), key=lambda n: (len(n), n)):
                found.append(self.get(kind, name))
        return found

    def _names(self, kind: str) -> list[str]:
        folder = self.folder / kind
        with reading(folder):
            found = [p for p in folder.iterdir() if p.name[0] != "."] if exists(folder) else []
            for path in found:
                if exists(path / WEIGHTS) and not self.has(kind, path.name):
                    raise UserError(
                        f"{path}: lacks {ENTRY}, as if it had been copied in part. Copy it again, "
                        "or delete it and train it again."
                    )
            return [path.name for path in found if self.has(kind, path.name)]


@contextmanager
def _reading_tensors(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a file of tensors into one message."""
    try:
        with reading(path):
            yield
    except SafetensorError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _commit() -> str | None:
    """Return the commit of the checkout that this package runs from, or None.

    Variables such as GIT_DIR, which git sets in its hooks, would lead to another checkout.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, env=own)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
