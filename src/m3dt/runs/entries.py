"""The description of a registered model, as `entry.json` holds it, and its check on reading."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from m3dt.config import LoaderConfig, ModelConfig, MoEConfig, PromptRouterConfig
from m3dt.config.fields import TYPE_WORDS, Section, settings_of
from m3dt.utils.errors import UserError
from m3dt.utils.files import fingerprint, read_json

KINDS = ("backbone", "grouping", "expert", "router", "baseline")
WEIGHTS, ENTRY = "weights.safetensors", "entry.json"
_SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "moe": MoEConfig,
    "prompt_router": PromptRouterConfig,
    "loader": LoaderConfig,
}
_NEEDED = {"backbone": "model", "baseline": "model", "expert": "moe", "router": "moe"}
_FILE = re.compile(r"[A-Za-z0-9_]+\.safetensors")
_KEY = re.compile(rf"({'|'.join(KINDS)})/[^/.][^/]*")
_HASH = re.compile(r"[0-9a-f]{64}")
_FIELDS: dict[str, type] = {
    "kind": str, "name": str, "settings": dict, "parents": dict, "dataset": str, "seed": int,
    "step": int, "metrics": dict, "tasks": list, "files": dict, "versions": dict, "commit": str,
    "digest": str,
}  # fmt: skip
_NAMES = {**TYPE_WORDS, dict: "a mapping", list: "a list"}
S = TypeVar("S", bound=Section)


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
        digest: SHA-256 of all of this, from which a later change is recognised.
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
    digest: str = ""

    @property
    def key(self) -> str:
        """`kind/name`."""
        return f"{self.kind}/{self.name}"

    @property
    def hash(self) -> str:
        """SHA-256 of the weights."""
        return self.files[WEIGHTS]

    @property
    def model(self) -> ModelConfig:
        """The settings of the model."""
        return _section(ModelConfig, "model", self.settings)

    def moe(self, **changes: Any) -> MoEConfig:
        """Return the settings of the experts, with changes; stage 2 records only some of them."""
        own = _section(MoEConfig, "moe", self.settings)
        return MoEConfig(**{**vars(own), **changes})

    @property
    def prompt_router(self) -> PromptRouterConfig:
        """The settings of a router by prompts."""
        return _section(PromptRouterConfig, "prompt_router", self.settings)

    def sealed(self, **changes: Any) -> Entry:
        """Return the entry with changes and its digest, as it reads back from JSON."""
        content = json.loads(json.dumps({**asdict(self), **changes, "digest": ""}))
        return Entry(**{**content, "digest": _digest(content)})


def read_entry(path: Path) -> Entry:
    """Read and check an `entry.json`, whose folders give its kind and name.

    Raises:
        UserError: The system refuses to read it, or its content is damaged or was changed.
    """
    try:
        content = read_json(path)
        _check(content, path.parent.parent.name, path.parent.name)
        return Entry(**content)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"{path}: damaged registry entry ({error}). Restore it, or delete {path.parent} and "
            "train it again."
        ) from None


def entry_files(run: Path) -> list[Path]:
    """Return the files of a run's entries, in the order of `KINDS` and of their names."""
    found: list[Path] = []
    for kind in KINDS:
        files = (run / "registry" / kind).glob(f"[!.]*/{ENTRY}")
        found += sorted(files, key=lambda path: (len(path.parent.name), path.parent.name))
    return found


def readable_entries(run: Path) -> tuple[list[Entry], list[str]]:
    """Return the entries of a run that can be read, and what is wrong with the others.

    Weights are not verified.
    """
    found, problems = [], []
    for path in entry_files(run):
        try:
            found.append(read_entry(path))
        except UserError as error:
            problems.append(str(error))
    return found, problems


def _check(content: Any, kind: str, name: str) -> None:
    """Raise a ValueError that says what is wrong with the content of an entry."""
    _check_fields(content)
    if (content["kind"], content["name"]) != (kind, name):
        raise ValueError(f"describes {content['kind']}/{content['name']}")
    _check_tasks(content)
    if kind == "grouping":
        _check_groups(content)
    if WEIGHTS not in content["files"]:
        raise ValueError(f"files: lists no {WEIGHTS}")
    for key, rule in (("files", _FILE), ("parents", _KEY)):
        for word, digest in content[key].items():
            if not (rule.fullmatch(word) and _HASH.fullmatch(digest)):
                raise ValueError(f"{key}: '{word}: {digest}' is no name with its SHA-256")
    for section, declared in _SECTIONS.items():
        if section in content["settings"] or _NEEDED.get(kind) == section:
            _section(declared, section, content["settings"])
    if content["digest"] != _digest(content):
        raise ValueError("it was changed after it was written")


def _check_fields(content: Any) -> None:
    """Check the names and types of all fields."""
    if not isinstance(content, dict):
        raise ValueError(f"holds {_named(content)}, not the fields of a model")
    for key in (*_FIELDS, *content):
        if key not in content:
            raise ValueError(f"lacks '{key}'")
        if key not in _FIELDS:
            raise ValueError(f"unknown field '{key}'")
        value, declared = content[key], _FIELDS[key]
        if type(value) is not declared and not (key == "commit" and value is None):
            raise ValueError(f"{key}: is {_named(value)}, not {_NAMES[declared]}")
    for key in ("parents", "files", "versions", "tasks"):
        held = content[key].values() if isinstance(content[key], dict) else content[key]
        if not all(isinstance(word, str) for word in held):
            raise ValueError(f"{key}: holds something that is no text")
    for key in ("seed", "step"):
        if content[key] < 0:
            raise ValueError(f"{key}: is negative")


def _check_tasks(content: Mapping[str, Any]) -> None:
    """Check that the tasks are those of the settings; an expert has some of them."""
    tasks, listed = content["tasks"], content["settings"].get("tasks", content["tasks"])
    if len(set(tasks)) < len(tasks):
        raise ValueError("tasks: one is there twice")
    some = content["kind"] == "expert" and isinstance(listed, list)
    if not (all(task in listed for task in tasks) if some else tasks == listed):
        raise ValueError("tasks: are not those of its settings")


def _check_groups(content: Mapping[str, Any]) -> None:
    """Check that task groups hold each task once."""
    groups = content["metrics"].get("groups")
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise ValueError("metrics: groups are no lists of tasks")
    grouped, tasks = [task for group in groups for task in group], content["tasks"]
    if len(grouped) != len(tasks) or not all(task in grouped for task in tasks):
        raise ValueError("metrics: groups do not hold each task once")


def _section(declared: type[S], key: str, settings: Mapping[str, Any]) -> S:
    """Return a section of the settings; missing keys have their defaults.

    Raises:
        ValueError: It is missing, or no such section.
    """
    values = settings.get(key)
    if not isinstance(values, dict) or not values:
        raise ValueError(f"settings: no section '{key}'")
    known = {name: type(f.default) for name, f in settings_of(declared()).items()}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"settings: unknown key '{key}.{name}'")
        whole = known[name] is float and type(value) is int
        if type(value) is not known[name] and not whole:
            wanted = _NAMES[known[name]]
            raise ValueError(f"settings: {key}.{name} is {_named(value)}, not {wanted}")
    return declared(**values)


def _named(value: Any) -> str:
    named = type(value) in _NAMES and type(value) is not bool
    return _NAMES[type(value)] if named else f"'{value}'"


def _digest(content: Mapping[str, Any]) -> str:
    return fingerprint({key: value for key, value in content.items() if key != "digest"})
