"""Find, merge and check configurations; every mistake is a `UserError` that names the key."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from m3dt.config.presets import BASELINES, COMPAT, METHODS, SIZES, size_preset
from m3dt.config.schema import Config
from m3dt.utils.errors import UserError, nearest
from m3dt.utils.files import atomic_path

# Arguments of the Trainer that follow from the other sections of a configuration.
_OUR_TRAINER_ARGUMENTS = {
    "accumulate_grad_batches",
    "callbacks",
    "default_root_dir",
    "enable_model_summary",
    "enable_progress_bar",
    "fast_dev_run",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "logger",
    "max_epochs",
    "max_steps",
    "max_time",
    "plugins",
    "use_distributed_sampler",
}
_SHIPPED = Path(__file__).resolve().parents[1] / "conf"  # an installed wheel
_CHECKOUT = Path(__file__).resolve().parents[3] / "conf"  # a source tree
CONF_FOLDERS = (Path("conf"), _CHECKOUT, _SHIPPED)


def shipped_confs() -> dict[str, Path]:
    """Return the configurations that `--conf NAME` finds, by name."""
    found: dict[str, Path] = {}
    for folder in CONF_FOLDERS:
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_conf(name: str) -> Path:
    """Return the file of a configuration given by name or by path.

    Raises:
        UserError: There is no such configuration.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UserError(f"--conf {name}: no such file")
        return path
    confs = shipped_confs()
    if name not in confs:
        known = ", ".join(sorted(confs)) or "none found: run inside the repository or give a path"
        raise UserError(f"--conf {name}: no such configuration.{nearest(name, confs)} ({known})")
    return confs[name]


def load_config(conf: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Merge schema, `base.yaml`, one experiment and `key=value` overrides, and check the result.

    Args:
        conf: Name of a file in `conf/`, or a path.
        overrides: Dotted keys, such as `stage1.max_steps=100`.

    Raises:
        UserError: A key is unknown or a value is wrong.
    """
    path = find_conf(str(conf))
    base = path.with_name("base.yaml")
    if not base.is_file():  # a configuration of one's own, anywhere
        base = find_conf("base")
    files = [(str(file), read_yaml(file)) for file in dict.fromkeys((base, path))]
    given = []
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not key:
            raise UserError(f"'{override}': overrides are written key=value")
        given.append((f"override '{override}'", _parse_override(override)))
    layers = []
    for group in (*([file] for file in files), given):
        layers += [*_presets([layer for _, layer in group], [*files, *given]), *group]
    merged = OmegaConf.structured(Config)
    for source, layer in layers:
        _check_keys(layer, merged, source)
        try:
            merged.merge_with(layer)  # in place: copies took most of the time
        except (OmegaConfBaseException, TypeError, ValueError) as error:
            raise UserError(f"{source}: {_first_line(error)}") from None
    merged.conf = path.stem
    try:
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UserError(f"{path}: {_first_line(error)}") from None
    assert isinstance(config, Config)
    config.run = config.run or _default_run(config)
    config.data = config.data or f"data/{config.suite}"
    _check_trainer(config.trainer)
    return config


_Layer = tuple[str, DictConfig]


def _presets(naming: Sequence[DictConfig], everything: Sequence[_Layer]) -> list[_Layer]:
    """Return what the method, size and compatibility stand for that some layers name.

    They go before those layers: what stands beside such a name is more particular than it.
    """
    found = []
    method = _last("method", [layer for _, layer in everything]) or Config.method
    sizes = {size: size_preset(method, size) for size in SIZES}
    for key, known in (("method", METHODS), ("size", sizes), ("compat", COMPAT)):
        chosen = _last(key, naming)
        if chosen is None:
            continue
        if chosen not in known:
            listed = f"{nearest(chosen, known)} ({', '.join(known)})"
            raise UserError(f"{key}={chosen}: no such {key}.{listed}")
        found.append((f"{key}={chosen}", OmegaConf.create(known[chosen])))
    return found


def _last(key: str, layers: Sequence[DictConfig]) -> str | None:
    try:
        values = [str(layer.get(key)) for layer in layers if layer.get(key) is not None]
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        raise UserError(f"{key}: {_first_line(error)}") from None
    return values[-1] if values else None


def _default_run(config: Config) -> str:
    variant = config.method != "m3dt-gradient" and config.method not in BASELINES
    parts = [config.conf, config.method if variant else "", config.size]
    return "runs/" + "-".join(part for part in parts if part not in ("", "default"))


def save_config(config: Config, path: Path) -> None:
    """Write a configuration as YAML that `load_config` reads back, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))


def read_yaml(path: Path) -> DictConfig:
    """Read a mapping.

    Raises:
        UserError: The file is none.
    """
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # yaml raises a whole family of its own
        raise UserError(f"{path}: not valid YAML: {_first_line(error)}") from None
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path}: the top level must be a mapping of keys")
    return loaded


def _parse_override(override: str) -> DictConfig:
    try:
        return OmegaConf.from_dotlist([override])
    except Exception as error:  # as above
        raise UserError(f"override '{override}': {_first_line(error)}") from None


def _check_keys(layer: DictConfig, schema: DictConfig, source: str, prefix: str = "") -> None:
    """Refuse keys that the schema lacks; below `trainer` and `callbacks` any key may stand."""
    for key in map(str, layer):
        dotted = f"{prefix}{key}"
        if key not in schema:
            known = _all_keys(OmegaConf.structured(Config))
            raise UserError(f"{source}: unknown key '{dotted}'.{nearest(dotted, known)}")
        below = OmegaConf.is_dict(layer._get_node(key)) and OmegaConf.is_dict(schema[key])
        if below and dataclasses.is_dataclass(OmegaConf.get_type(schema, key)):
            _check_keys(layer[key], schema[key], source, f"{dotted}.")


def _all_keys(schema: DictConfig, prefix: str = "") -> Iterable[str]:
    for key in map(str, schema):
        yield f"{prefix}{key}"
        if OmegaConf.is_dict(schema[key]):
            yield from _all_keys(schema[key], f"{prefix}{key}.")


def _check_trainer(arguments: dict[str, Any]) -> None:
    """Check the names of `trainer.*` against those of lightning's Trainer."""
    if not arguments:
        return
    from lightning.pytorch import Trainer

    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    known -= _OUR_TRAINER_ARGUMENTS
    for key in arguments:
        if key not in known:
            raise UserError(f"unknown key 'trainer.{key}'.{nearest(key, known)}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    full_key = next((line.strip() for line in lines if "full_key:" in line), "")
    key = full_key.removeprefix("full_key:").strip()
    return f"{lines[0] if lines else type(error).__name__}" + (f" (key '{key}')" if key else "")
