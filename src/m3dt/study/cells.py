"""What a study file says: the cells of its grids, every one with a configuration that holds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from m3dt.config import Config, load_config, read_yaml
from m3dt.utils.errors import UserError, nearest
from m3dt.utils.files import fingerprint

SCORES = "scores.json"  # of a cell, in its run
_PART_KEYS = ("grid", "set", "only", "reuse", "models")
_KEYS = ("conf", "runs", "parts", *_PART_KEYS)


@dataclass(frozen=True)
class Cell:
    """One point of a grid.

    Attributes:
        part: Of the study; empty if it has none.
        name: Its values, joined, numbers behind their settings' names; the run's folder.
        values: Setting to value, as the grid has them.
        overrides: Everything that is given to the commands but for `reuse`, run's folder included.
        reuse: Another run to take models from.
        models: What is evaluated, the method's own model last; empty for that alone.
        key: Of everything that its scores depend on but the data and the code.
    """

    part: str
    name: str
    values: dict[str, str]
    overrides: tuple[str, ...]
    reuse: Path | None = None
    models: tuple[str, ...] = ()
    key: str = ""

    @property
    def chain(self) -> str:
        """What cells have in common that share models, so that one job should run them."""
        return self.reuse.name if self.reuse else self.name


@dataclass(frozen=True)
class Study:
    """What a study file says."""

    conf: str
    runs: Path
    cells: tuple[Cell, ...]


def load_study(path: Path, overrides: Sequence[str]) -> Study:
    """Read a study and check the configuration of each of its cells.

    The file holds `grid`, lists of values by setting, and, as wanted, `conf`, a configuration;
    `set`, overrides of all cells; `only`, overrides of the cells that have a value; `runs`, the
    folder of their runs; `models`, what is evaluated; and `reuse`, another run to take from what is
    shared. In `set` and `reuse`, `{seed}` stands for the cell's value of that setting. With
    `parts`, each part by its name has such a grid of its own, beside what holds for all.

    Raises:
        UserError: The file cannot be read, or a cell's configuration is wrong.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Studies are in conf/study/.")
    content: Any = OmegaConf.to_container(read_yaml(path))
    _check_keys(path, content, _KEYS)
    conf = str(content.get("conf", "quickstart"))
    runs = Path(content.get("runs") or f"runs/{path.stem}")
    shared = [*map(str, content.get("set") or [])]
    parts = content.get("parts")
    if parts is None:
        parts = {"": {k: v for k, v in content.items() if k in _PART_KEYS and k != "set"}}
    if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
        raise UserError(f"{path}: 'parts' must give a grid by the name of each part")
    cells: dict[str, Cell] = {}
    for name, part in parts.items():
        _check_keys(path, part, _PART_KEYS)
        for cell in _cells(path, str(name), part, shared, overrides, runs):
            key = _key(load_config(conf, cell.overrides), cell.models)
            if cell.name in cells:
                raise UserError(f"{path}: two cells have the same values: {cell.name}")
            cells[cell.name] = replace(cell, key=key)
    return Study(conf, runs, tuple(cells.values()))


def _key(config: Config, models: Sequence[str]) -> str:
    """Return a fingerprint of the settings that results depend on, where they are not defaults.

    So rows of a table stay valid where a setting is added to the schema.
    """
    settings = asdict(config)
    free = ("run", "data", "reuse", "force", "check_data", "collect", "trainer", "compute")
    for name in (*free, "sources"):
        settings.pop(name)
    settings["precision"] = config.trainer.get("precision")
    del settings["evaluation"]["workers"], settings["loader"]["num_workers"]
    return fingerprint([_own(settings, asdict(Config())), list(models)])[:12]


def _own(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return what differs from the defaults."""
    own = {}
    for name, value in settings.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            value = _own(value, default) or default
        if value != default:
            own[name] = value
    return own


def _check_keys(path: Path, content: dict[str, Any], known: Sequence[str]) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key '{key}'.{nearest(key, known)}")


def _cells(
    path: Path,
    part: str,
    content: dict[str, Any],
    shared: Sequence[str],
    overrides: Sequence[str],
    runs: Path,
) -> list[Cell]:
    """Return the cells of one grid."""
    grid, only = content.get("grid"), content.get("only") or {}
    if not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
        raise UserError(f"{path}: 'grid' must give a list of values for each setting")
    values = [str(value) for listed in grid.values() for value in listed]
    for value, own in only.items():
        if str(value) not in values or not isinstance(own, list):
            raise UserError(
                f"{path}: 'only' gives lists of overrides by values of the grid; '{value}' is none"
                f"{nearest(str(value), values)}"
            )
    only = {str(value): own for value, own in only.items()}
    cells = []
    for point in itertools.product(*grid.values()):
        chosen = {setting: str(value) for setting, value in zip(grid, point, strict=True)}
        name = "_".join(itertools.starmap(_label, chosen.items()))
        own = [str(o) for value in chosen.values() for o in only.get(value, [])]
        given = [f"{setting}={value}" for setting, value in chosen.items()]
        everything = [*shared, *map(str, content.get("set") or []), *overrides, *given, *own]
        filled = [_fill(path, override, chosen) for override in everything]
        reuse = content.get("reuse")
        source = Path(_fill(path, str(reuse), chosen)) if reuse else None
        if source == runs / name:
            source = None
        models = tuple(map(str, content.get("models") or ()))
        run = f"run={runs / name}"
        cells.append(Cell(part, name, chosen, (*filled, run), source, models))
    return cells


def _label(setting: str, value: str) -> str:
    number = value.replace(".", "").replace("-", "").isdigit()
    return (setting.rpartition(".")[2] if number else "") + value.replace("/", "-")


def _fill(path: Path, text: str, values: dict[str, str]) -> str:
    """Put a cell's values in place of `{seed}`, `{num_experts}` and so on."""
    short = {setting.rpartition(".")[2]: value for setting, value in values.items()}

    def value(match: re.Match[str]) -> str:
        if match[1] not in short:
            raise UserError(
                f"{path}: '{text}': the grid has no {match[0]}.{nearest(match[1], list(short))}"
            )
        return short[match[1]]

    return re.sub(r"\{(\w+)\}", value, text)
