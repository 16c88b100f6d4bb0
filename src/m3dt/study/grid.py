"""Study files: grids of settings, one checked configuration per cell."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from m3dt.config import BASELINES, DEFAULT_CONF, Config, find_study, read_yaml
from m3dt.config.fields import Section, settings_of, weight_settings
from m3dt.tasks.experiment import load_experiment
from m3dt.utils.errors import UserError, nearest
from m3dt.utils.files import fingerprint
from m3dt.utils.paths import user_path

_PART_KEYS = ("grid", "set", "only", "reuse", "models", "copy", "extend", "evaluate")
TOGETHER, IN_A_ROW, NOT_AT_ALL = "together", "in a row", "no"
_EXTENSIONS = (TOGETHER, IN_A_ROW, NOT_AT_ALL)
_STUDY_KEYS = ("conf", "runs", "parts", *_PART_KEYS)

# Settings that scores do not depend on.
_FREE = (
    "run", "data", "reuse", "force", "check_data", "collect", "trainer", "compute", "sources"
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One point of a grid.

    Attributes:
        part: Name of its part of the study; empty if the study has no parts.
        name: Its values joined by `_`, with numbers prefixed by their setting; names the run.
        values: The value of each setting of the grid.
        overrides: All overrides of its commands except `reuse`, including the run's folder.
        reuse: A run to take models from.
        models: The models to evaluate, ending with the method's own; empty for that one only.
        copy: A run that its own begins as a copy of, in place of its trainings.
        extend: How the copy is extended by the cell's tasks: `together`, `in a row`, or `no`.
        evaluated: Overrides of its evaluation alone.
        key: Fingerprint of everything that its scores depend on, except the data and the code.
        config: Its configuration, without `reuse`.
    """

    part: str
    name: str
    values: dict[str, str]
    overrides: tuple[str, ...]
    reuse: Path | None
    models: tuple[str, ...]
    copy: Path | None
    extend: str
    evaluated: tuple[str, ...]
    key: str
    config: Config = field(repr=False, compare=False)

    @property
    def source_run(self) -> str:
        """The name of the run that its models come from."""
        return self.reuse.name if self.reuse else self.name


@dataclass(frozen=True)
class Study:
    """A study file: the configuration of all cells, the folder of their runs, and the cells."""

    conf: str
    runs: Path
    cells: tuple[Cell, ...]


def load_study(path: Path, overrides: Sequence[str]) -> Study:
    """Read a study file and check the configuration of each cell.

    The key `grid` lists the values of each setting. Optional keys: `conf`, the configuration;
    `set`, overrides of all cells; `only`, overrides of the cells with a given value; `runs`, the
    folder of the runs; `models`, the models to evaluate; `reuse`, a run to take shared models from;
    `copy`, a run to begin with instead of training, and `extend`, how it is extended by the cell's
    tasks; `evaluate`, overrides of the evaluation. In all of these, `{seed}` is replaced by the
    cell's value of that setting. `parts` maps names to several such grids; top-level keys apply to
    all of them. `overrides` apply to every cell.

    Raises:
        UserError: The file cannot be read, or the configuration of a cell is wrong.
    """
    path = find_study(path)
    content: Any = OmegaConf.to_container(read_yaml(path))
    _check_keys(path, content, _STUDY_KEYS)
    conf = str(content.get("conf", DEFAULT_CONF))
    runs = user_path(content.get("runs") or f"runs/{path.stem}")
    cells: dict[str, Cell] = {}
    for name, part in _parts(path, content).items():
        texts = [*(content.get("set") or []), *(part.get("set") or []), *overrides]
        for cell in _cells(path, name, part, texts, conf, runs):
            if cell.name in cells:
                raise UserError(f"{path}: two cells have the same values: {cell.name}")
            cells[cell.name] = cell
    return Study(conf, runs, tuple(cells.values()))


def _parts(path: Path, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the checked parts of a study file by name; without parts, the file is the only one."""
    parts = content.get("parts")
    if parts is None:
        parts = {"": {k: v for k, v in content.items() if k in _PART_KEYS and k != "set"}}
    if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
        raise UserError(f"{path}: 'parts' must map the name of each part to a grid")
    for part in parts.values():
        _check_keys(path, part, _PART_KEYS)
        grid = part.get("grid")
        if not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
            raise UserError(f"{path}: 'grid' must give a list of values for each setting")
        if str(part.get("extend") or NOT_AT_ALL) not in _EXTENSIONS:
            raise UserError(f"{path}: 'extend' must be one of {', '.join(_EXTENSIONS)}")
        if part.get("extend") and not part.get("copy"):
            raise UserError(f"{path}: 'extend' goes with 'copy', the run that is extended")
        values = [str(value) for listed in grid.values() for value in listed]
        for value, given in (part.get("only") or {}).items():
            if str(value) not in values or not isinstance(given, list):
                raise UserError(
                    f"{path}: 'only' maps values of the grid to lists of overrides; '{value}' is "
                    f"not one of them.{nearest(str(value), values)}"
                )
    return {str(name): part for name, part in parts.items()}


def _check_keys(path: Path, content: dict[str, Any], known: Sequence[str]) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key '{key}'.{nearest(key, known)}")


def _cells(
    path: Path, part_name: str, part: dict[str, Any], texts: Sequence[Any], conf: str, runs: Path
) -> list[Cell]:
    """Return the cells of a part; `texts` are overrides with placeholders such as `{seed}`."""
    grid, models = part["grid"], tuple(map(str, part.get("models") or ()))
    only = {str(value): given for value, given in (part.get("only") or {}).items()}
    cells = []
    for point in itertools.product(*grid.values()):
        values = {setting: str(value) for setting, value in zip(grid, point, strict=True)}
        name = "_".join(itertools.starmap(_label, values.items()))
        given = [f"{setting}={value}" for setting, value in values.items()]
        own = [override for value in values.values() for override in only.get(value, [])]
        filled = [_fill(path, str(text), values) for text in (*texts, *given, *own)]
        overrides = (*filled, f"run={runs / name}")
        source = _fill(path, str(part.get("reuse") or ""), values)
        reuse = user_path(source) if source and user_path(source) != runs / name else None
        copied = _fill(path, str(part.get("copy") or ""), values)
        copy, extend = user_path(copied) if copied else None, str(part.get("extend") or NOT_AT_ALL)
        evaluated = tuple(_fill(path, str(text), values) for text in part.get("evaluate") or ())
        config = load_experiment(conf, overrides)
        if evaluated:
            load_experiment(conf, [*overrides, *evaluated])  # report mistakes in them now
        key = _key(config, models, [copied, extend, *evaluated] if copied or evaluated else [])
        also = (copy, extend, evaluated)
        cells.append(Cell(part_name, name, values, overrides, reuse, models, *also, key, config))
    return cells


def _label(setting: str, value: str) -> str:
    number = value.replace(".", "").replace("-", "").isdigit()
    plain = re.sub(r"[^\w.+-]+", "-", value).strip("-")
    return (setting.rpartition(".")[2] if number else "") + plain


def _fill(path: Path, text: str, values: Mapping[str, str]) -> str:
    """Replace `{seed}`, `{num_experts}` and so on by the values of a cell."""
    short = {setting.rpartition(".")[2]: value for setting, value in values.items()}

    def value(match: re.Match[str]) -> str:
        if match[1] not in short:
            close = nearest(match[1], short)
            raise UserError(f"{path}: '{text}': the grid has no {match[0]}.{close}")
        return short[match[1]]

    return re.sub(r"\{(\w+)\}", value, text)


def _key(config: Config, models: Sequence[str], more: Sequence[str]) -> str:
    """Return a fingerprint of the settings that scores depend on and that are not defaults.

    `more` is what else they depend on.

    Leaving out defaults keeps the rows of a table valid when the schema gains a setting.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE}
    for name in settings.keys() & settings_of(config).keys():
        section = getattr(config, name)
        if isinstance(section, Section) and name != "evaluation":
            settings[name] = {key: settings[name][key] for key in weight_settings(section)}
    for name in _unused(config):
        del settings[name]
    settings["precision"] = config.trainer.get("precision")
    del settings["evaluation"]["workers"]
    changed = _changed(settings, asdict(Config()))
    return fingerprint([changed, list(models), *([list(more)] if more else [])])[:12]


def _unused(config: Config) -> list[str]:
    """Return the sections that a method does not read."""
    trained = config.method in BASELINES
    unused = (
        ["stage1", "stage2", "stage3", "prompt_router", "grouping"] if trained else ["baseline"]
    )
    return unused if config.method == "harmodt" else [*unused, "harmodt"]


def _changed(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the defaults."""
    changed = {}
    for name, value in settings.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            value = _changed(value, default) or default
        if value != default:
            changed[name] = value
    return changed
