"""Find, merge and check configurations. Every mistake is a `UserError` that names its source."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from m3dt.config.fields import (
    TYPE_WORDS,
    Choices,
    Section,
    SettingError,
    Sources,
    from_yaml,
    settings_of,
)
from m3dt.config.presets import BASELINES, COMPAT, METHODS, SIZES, size_preset
from m3dt.config.schema import Config
from m3dt.utils.errors import UserError, nearest, shortened
from m3dt.utils.files import atomic_path, reading
from m3dt.utils.paths import user_path

# The working directory's, then the package's.
CONF_FOLDERS = (Path("conf"), Path(__file__).resolve().parents[1] / "conf")
_BASE = CONF_FOLDERS[-1] / "base.yaml"  # in a working directory, it may be of another project
DEFAULT_CONF = "quickstart"  # where nobody gives another
RUN_CONFIG = "config.yaml"  # a run's configuration, in its folder

# Arguments of the Trainer that m3dt sets from the other sections.
_OUR_TRAINER_ARGUMENTS = {
    "accumulate_grad_batches", "barebones", "callbacks", "check_val_every_n_epoch",
    "default_root_dir", "enable_checkpointing", "enable_model_summary", "enable_progress_bar",
    "fast_dev_run", "gradient_clip_algorithm", "gradient_clip_val", "limit_val_batches", "logger",
    "max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "num_sanity_val_steps",
    "overfit_batches", "plugins", "reload_dataloaders_every_n_epochs", "use_distributed_sampler",
    "val_check_interval",
}  # fmt: skip
# Those that every Lightning has: a configuration with no others is read without importing torch.
_KNOWN_TRAINER_ARGUMENTS = {
    "accelerator", "benchmark", "detect_anomaly", "deterministic", "devices", "inference_mode",
    "log_every_n_steps", "num_nodes", "precision", "profiler", "strategy", "sync_batchnorm",
}  # fmt: skip
_NO_TEXT = ("", "~", "null", "Null", "NULL")  # as YAML has it, and empty
_QUOTES = "'\""
_KINDS = {**TYPE_WORDS, ListConfig: "a list"}
_Layer = tuple[str, DictConfig]  # its source and its settings
_Stamps = tuple[tuple[int, ...], ...]


def shipped_confs() -> dict[str, Path]:
    """Return the configurations that `--conf NAME` finds, by name.

    A file of the working directory precedes the package's of that name, but `base` is always the
    package's: other projects have a `conf/base.yaml`, too.
    """
    found: dict[str, Path] = {"base": _BASE}
    for folder in CONF_FOLDERS:
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_conf(name: str) -> Path:
    """Return the file of a configuration, given by name or by path.

    Raises:
        UserError: There is no such configuration.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = user_path(name)
        if not path.is_file():
            raise UserError(f"--conf {name}: no such file")
        return path
    confs = shipped_confs()
    if name not in confs:
        known = ", ".join(sorted(confs))
        raise UserError(f"--conf {name}: no such configuration.{nearest(name, confs)} ({known})")
    return confs[name]


def shipped_studies() -> dict[str, Path]:
    """Return the studies that `m3dt study NAME` finds; the working directory's come first."""
    return {p.stem: p for c in reversed(CONF_FOLDERS) for p in sorted(c.glob("study/*.yaml"))}


def find_study(written: Path) -> Path:
    """Return a study file, given by path or by the name of one in `conf/study`.

    Raises:
        UserError: There is no such study.
    """
    if written.is_file():
        return written
    studies = shipped_studies()
    if written.parent not in (Path(), Path("conf/study")) or written.stem not in studies:
        known = f"{nearest(written.stem, studies)} ({', '.join(sorted(studies))})"
        raise UserError(f"{written}: no such file.{known}")
    return studies[written.stem]


def load_config(conf: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Merge schema, `base.yaml`, one experiment and `key=value` overrides, and check the result.

    Args:
        conf: Name of a file in `conf/`, or a path.
        overrides: Settings by dotted keys, such as `stage1.max_steps=100`.

    Raises:
        UserError: A key is unknown or a value is wrong.
    """
    path = find_conf(str(conf))
    stamps = _stamps(path)
    files = _read_files(path, stamps)
    given = [_parse_override(override) for override in overrides]
    method = _last("method", [*(layer for group in files for layer in group), *given])
    method = method or Config.method
    presets = tuple(_last(key, group) for group in files for key in ("size", "compat"))
    merged, sources = copy.deepcopy(_merged_files(path, stamps, method, presets))
    sources.conf, sources.overrides = str(conf), tuple(overrides)
    schema = Config()
    _add(merged, schema, sources, given, method)
    merged.conf = path.stem
    config = _build(merged, schema, sources)
    config.run = _run_beside(path, sources) or config.run or _default_run(config)
    config.data = config.data or str(Path(f"data/{config.suite}"))
    _check_trainer(config)
    return config


@lru_cache(maxsize=32)
def _merged_files(
    path: Path, stamps: _Stamps, method: str, presets: tuple[str | None, ...]
) -> tuple[DictConfig, Sources]:
    """Merge the schema's defaults with the files of a configuration; return each key's source, too.

    A study has hundreds of cells of one file; to copy the result takes a fraction of making it. All
    that the result depends on are arguments: `presets` are the names in the files, which may be
    those of variables of the environment.
    """
    merged: DictConfig = copy.deepcopy(_schema())
    schema, sources = Config(), Sources()
    for group in copy.deepcopy(_read_files(path, stamps)):
        _add(merged, schema, sources, group, method)
    return merged, sources


def _stamps(path: Path) -> _Stamps:
    """Return what changes when one of the files of a configuration is written again."""
    with reading(path):
        stats = [file.stat() for file in (_BASE, path)]
    return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)


def _add(
    merged: DictConfig, schema: Config, sources: Sources, group: Sequence[_Layer], method: str
) -> None:
    """Merge a group of layers, after the presets that it names."""
    for source, layer in (*_presets(group, method), *group):
        _read(layer, schema, source, sources)
        _merge(merged, layer, source)


@cache
def _schema() -> DictConfig:
    """Return the schema with its defaults. To make it takes five times as long as to copy it."""
    schema: DictConfig = OmegaConf.structured(Config)
    return schema


def config_values(config: Section) -> dict[str, Any]:
    """Return all settings as plain values, by section."""
    values = {name: getattr(config, name) for name in settings_of(config)}
    return {
        name: config_values(value) if isinstance(value, Section) else copy.deepcopy(value)
        for name, value in values.items()
    }


def save_config(config: Config, path: Path) -> None:
    """Write a configuration as YAML that `load_config` reads back, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(config_values(config))))


def read_yaml(path: Path) -> DictConfig:
    """Read a YAML file that holds a mapping.

    Raises:
        UserError: The file is not valid YAML, or holds something else.
    """
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # yaml has many exceptions without a common base
        raise UserError(f"{path}: not valid YAML: {_reason(error)}") from None
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path}: the top level must be a mapping of keys")
    return loaded


@lru_cache(maxsize=32)
def _read_files(path: Path, stamps: _Stamps) -> list[list[_Layer]]:
    """Return the files of a configuration in the order in which they are merged, a group each."""
    groups = [[(str(file), read_yaml(file))] for file in dict.fromkeys((_BASE, path))]
    own = groups[-1][0][1]
    if not own:
        raise UserError(f"{path}: is empty. Name at least a suite, such as `suite: mt10`.")
    complete = settings_of(Config()).keys() <= own.keys()  # a run's: nothing is added to it
    return groups[-1:] if complete else groups


def _parse_override(override: str) -> _Layer:
    key, separator, written = override.partition("=")
    if not separator or not key:
        raise UserError(f"'{override}': overrides are written key=value")
    source, written = f"override '{override}'", written.strip()
    try:
        if not _is_text(key) or written in _NO_TEXT or written[0] in _QUOTES:
            return source, OmegaConf.from_dotlist([override])
        layer = OmegaConf.create()
        OmegaConf.update(layer, key, written)  # YAML reads `off`, `010` and `@a` otherwise
        return source, layer
    except Exception as error:  # as above
        raise UserError(f"{source}: {_reason(error)}") from None


@cache
def _is_text(key: str) -> bool:
    """Tell whether the schema declares a dotted key as text, and not as on or off."""
    *above, name = key.split(".")
    section: Any = Config()
    for part in above:
        section = getattr(section, part, None)
    declared = settings_of(section) if isinstance(section, Section) else {}
    if name not in declared or declared[name].type not in (str, "str"):
        return False
    rule = declared[name].metadata.get("rule")
    return not (isinstance(rule, Choices) and "off" in rule.words)


def _presets(group: Sequence[_Layer], method: str) -> Iterator[_Layer]:
    """Yield the settings of the method, size and compatibility that a group of layers names.

    They are merged before the group, which can override them. The schema refuses unknown names.
    """
    sizes = {size: size_preset(method, size) for size in SIZES}
    for key, known in (("method", METHODS), ("size", sizes), ("compat", COMPAT)):
        chosen = _last(key, group)
        if chosen in known:
            yield f"preset {key}={chosen}", OmegaConf.create(known[chosen])


def _last(key: str, layers: Sequence[_Layer]) -> str | None:
    """Return the value that the last of the layers with a key has for it."""
    for source, layer in reversed(layers):
        try:
            value = layer.get(key)
        except OmegaConfBaseException as error:  # an unknown interpolation
            raise UserError(f"{source}: {key}: {_reason(error)}") from None
        if value is not None:
            return str(value)
    return None


def _read(
    layer: DictConfig, section: Section | None, source: str, sources: Sources, prefix: str = ""
) -> None:
    """Check a layer's keys, record their source, and take values as they were meant, in place.

    Where there is no section, as below `trainer`, `callbacks` and `loggers`, any key is allowed.
    """
    declared = settings_of(section) if section else {}
    for key in list(layer):
        node, dotted = layer._get_node(key), f"{prefix}{key}"
        sources.record(dotted, source)
        if section and key not in declared:
            raise sources.unknown(dotted, _all_keys(Config()))
        below = getattr(section, str(key)) if section else None
        if isinstance(node, DictConfig) and (section is None or isinstance(below, Section | dict)):
            deeper = below if isinstance(below, Section) else None
            _read(node, deeper, source, sources, f"{dotted}.")
        elif isinstance(below, Section | dict):
            raise UserError(f"{source}: {dotted}={shortened(node)} must be a mapping of keys")
        elif isinstance(below, list) and isinstance(node, DictConfig):
            raise UserError(f"{source}: {dotted}={shortened(node)} must be a list")
        elif section and isinstance(node, AnyNode):
            value = from_yaml(node._value(), declared[str(key)])
            if isinstance(value, bool) and isinstance(below, str):
                raise UserError(
                    f"{source}: {dotted}: YAML reads on, off, yes and no as true and false. Write "
                    "it in quotes."
                )
            layer[key] = value


def _merge(merged: DictConfig, layer: DictConfig, source: str) -> None:
    """Merge a layer in place, as copies took most of the time."""
    try:
        merged.merge_with(layer)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        key = getattr(error, "full_key", None) or ""
        kind = _KINDS.get(type(OmegaConf.select(merged, key))) if key else None
        given = OmegaConf.select(layer, key)
        problem = f"{key}={shortened(given)} must be {kind}"
        if kind == _KINDS[ListConfig] and not isinstance(given, DictConfig):
            problem += f', such as "{key}=[{shortened(given)}]"'
        raise UserError(f"{source}: {problem if kind else _reason(error)}") from None


def _build(merged: DictConfig, schema: Config, sources: Sources) -> Config:
    """Return the typed configuration; its sections check themselves."""
    prefix = ""
    try:
        values: Any = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
        for name, value in values.items():
            if isinstance(section := getattr(schema, name), Section):
                prefix = f"{name}."
                values[name] = type(section)(**value)
        prefix = ""
        return Config(**values, sources=sources)
    except SettingError as error:
        source = sources.of(*(f"{prefix}{name}" for name in error.values))
        raise UserError(f"{source}: {error.message(prefix)}") from None
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        key = str(getattr(error, "full_key", ""))
        raise UserError(f"{sources.of(key)}: {key}: {_reason(error)}") from None


def _run_beside(path: Path, sources: Sources) -> str:
    """Return the folder of a run whose own configuration is read, as the run may have moved."""
    written = sources.of("run") == str(path) and path.name == RUN_CONFIG
    begun = any((path.parent / name).is_dir() for name in ("registry", "checkpoints"))
    return str(path.parent) if written and begun else ""


def _default_run(config: Config) -> str:
    variant = config.method != "m3dt-gradient" and config.method not in BASELINES
    parts = [config.conf, config.method if variant else "", config.size]
    return "runs/" + "-".join(part for part in parts if part not in ("", "default"))


def _check_trainer(config: Config) -> None:
    """Check the names of `trainer.*` against those of Lightning's Trainer."""
    if config.trainer.keys() <= _KNOWN_TRAINER_ARGUMENTS:
        return
    from lightning.pytorch import Trainer

    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    for key in config.trainer:
        dotted = f"trainer.{key}"
        if key in _OUR_TRAINER_ARGUMENTS:
            source = config.sources.of(dotted)
            raise UserError(f"{source}: '{dotted}' follows from other settings and cannot be given")
        if key not in known:
            free = (f"trainer.{name}" for name in known - _OUR_TRAINER_ARGUMENTS)
            raise config.sources.unknown(dotted, [*_all_keys(Config()), *free])


def _all_keys(section: Section, prefix: str = "") -> Iterator[str]:
    for key in settings_of(section):
        yield f"{prefix}{key}"
        if isinstance(below := getattr(section, key), Section):
            yield from _all_keys(below, f"{prefix}{key}.")


def _reason(error: Exception) -> str:
    """Return what an exception of yaml or OmegaConf says, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else lines[0]
