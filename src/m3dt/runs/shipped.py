"""The trained agents in the package, and compact copies of runs, which they are."""

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from m3dt.runs.entries import ENTRY, WEIGHTS, Entry
from m3dt.runs.layout import CONFIG
from m3dt.runs.model_card import write_card
from m3dt.runs.registry import Registry
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_folder, atomic_path, nearest_existing, sha256, write_json
from m3dt.utils.paths import user_path

WEIGHTS_FOLDER = Path(__file__).resolve().parents[1] / "weights"


def shipped_agents() -> list[str]:
    """Return the names of the agents in the package."""
    return sorted(path.parent.name for path in WEIGHTS_FOLDER.glob(f"*/{CONFIG}"))


def find_run(written: str | Path) -> Path:
    """Return the folder of a run: as written or, if there is none, that of a shipped agent.

    Raises:
        UserError: There is neither.
    """
    path, shipped = user_path(written), shipped_agents()
    if path.is_dir():
        return path
    if str(written) in shipped:
        return WEIGHTS_FOLDER / str(written)
    names = " and ".join(shipped)
    raise UserError(
        f"{path}: holds no trained model, as there is no such folder. Train one with "
        f"`m3dt stage1`, or load an agent that m3dt ships: {names}."
    )


def is_shipped(run: Path) -> bool:
    """Tell whether a run is that of a shipped agent, which no command may change."""
    return run.parent == WEIGHTS_FOLDER


def compact_copy(source: str | Path, target: str | Path) -> None:
    """Copy a run's models with weights in float16, without their training's records.

    What follows from data, such as prompts, keeps its precision. Scores are left behind, since
    other weights have others. A copy can be extended by new tasks. Its models' settings say that
    the weights are rounded, so that no training takes them for its own: neither when it is repeated
    in the copy, nor by `reuse`.

    Args:
        source: A run's folder, or the name of a shipped agent.
        target: A folder that is new or empty.

    Raises:
        UserError: The source is no run or has no model, the target is no folder or holds something,
            or a number is too large for float16.
    """
    registry, copy = Registry(find_run(source)), user_path(target)
    entries = _entries_of(registry)
    _check_target(copy)
    hashes: dict[str, str] = {}
    for entry in _parents_first(entries):
        folder = copy / "registry" / entry.kind / entry.name
        with atomic_folder(folder) as temporary:
            for file in entry.files:
                tensors = registry.tensors(entry, file.removesuffix(".safetensors"))
                if file == WEIGHTS:
                    where = registry.file(entry)
                    tensors = {n: _half(t, f"{where}: {n}") for n, t in tensors.items()}
                save_file(tensors, temporary / file)
            files = {file: sha256(temporary / file) for file in entry.files}
            parents = {key: hashes.get(key, digest) for key, digest in entry.parents.items()}
            metrics = {k: v for k, v in entry.metrics.items() if not isinstance(v, dict | list)}
            kept = entry.metrics if entry.kind == "grouping" else metrics
            settings = {**entry.settings, "weights": "float16"}
            sealed = entry.sealed(files=files, parents=parents, metrics=kept, settings=settings)
            hashes[entry.key] = sealed.hash
            write_json(temporary / ENTRY, asdict(sealed))
    for source_file in (*sorted(registry.run.glob("extension-*.yaml")), registry.run / CONFIG):
        with atomic_path(copy / source_file.name) as temporary:
            temporary.write_bytes(source_file.read_bytes())
    write_card(copy)


def _entries_of(registry: Registry) -> list[Entry]:
    """Return the models of a run.

    Raises:
        UserError: It has none, or is no run.
    """
    entries = registry.entries()
    missing = f"no {CONFIG}" if not (registry.run / CONFIG).is_file() else ""
    missing = missing or ("" if entries else "no trained model")
    if missing:
        raise UserError(
            f"{registry.run}: is no run to copy, as it has {missing}. Name a run of `m3dt stage1`, "
            f"or an agent that m3dt ships: {' and '.join(shipped_agents())}."
        )
    return entries


def _check_target(copy: Path) -> None:
    """Check that a folder is new or empty.

    Raises:
        UserError: It holds something, or it or what it lies in is no folder.
    """
    existing = nearest_existing(copy)
    if not existing.is_dir():
        raise UserError(f"{existing}: is no folder. Name another folder for the copy.")
    if existing == copy and any(copy.iterdir()):
        raise UserError(f"{copy}: is not empty. Delete it, or name another folder for the copy.")


def _parents_first(entries: list[Entry]) -> list[Entry]:
    order = ("backbone", "grouping", "baseline", "expert", "router")
    return sorted(entries, key=lambda entry: order.index(entry.kind))


def _half(tensor: torch.Tensor, what: str) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if not half.isfinite().all():
        largest, limit = float(tensor.abs().max()), torch.finfo(torch.float16).max
        raise UserError(
            f"{what} holds {largest:g}, which is too large for float16, whose largest number is "
            f"{limit:g}. Share the run itself, without a copy."
        )
    return half
