"""What a model was trained on is what the registry holds now."""

from collections.abc import Iterable

from m3dt.runs.entries import Entry
from m3dt.runs.registry import Registry
from m3dt.utils.errors import UserError


def check_parent(registry: Registry, entry: Entry, parent: Entry) -> None:
    """Refuse a model that was trained on another parent than the registered one."""
    if entry.parents.get(parent.key) != parent.hash:
        raise UserError(
            f"{registry.run}: {entry.key} was trained on another {parent.key} than the one "
            f"registered now. Delete {registry.folder / entry.kind / entry.name} and train it "
            "again, or use another run=FOLDER."
        )


def _parent(registry: Registry, entry: Entry, key: str) -> Entry:
    parent = registry.find(*key.split("/"))
    if parent is None:
        raise UserError(
            f"{registry.run}: {entry.key} was trained on {key}, which is not registered. Copy "
            f"{registry.folder / key} from where it was trained, delete "
            f"{registry.folder / entry.kind / entry.name} and train it again, or use another "
            "run=FOLDER."
        )
    return parent


def check_lineage(registry: Registry, entries: Iterable[Entry]) -> None:
    """Refuse models if one that they build on, at any depth, is missing or was trained again.

    Raises:
        UserError: One is like that.
    """
    found: dict[str, Entry] = {}
    waiting = list(entries)
    for entry in waiting:
        for key in entry.parents:
            if key not in found:
                found[key] = _parent(registry, entry, key)
                waiting.append(found[key])
            check_parent(registry, entry, found[key])
