"""Build the callbacks that a configuration names by the dotted paths of their classes."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, TypeGuard, get_type_hints

import lightning.pytorch as pl

from m3dt.config import Config
from m3dt.utils.errors import UserError, nearest

# Under which trainings list callbacks.
_SECTIONS = ["stage1", "stage2", "stage3", "prompt_router", "baseline"]


def build_callbacks(config: Config, stage: str) -> dict[str, pl.Callback]:
    """Build the callbacks that the configuration lists for a stage, by name.

    Those of other stages are built too, so that every stage finds a mistake in any of them.

    Raises:
        UserError: A class or an argument does not exist, or a value is refused.
    """
    built = {}
    for name, given in config.callbacks.items():
        if given is None:
            continue  # switched off
        key = f"callbacks.{name}"
        if not isinstance(given, dict):
            raise UserError(f"{config.sources.of(key)}: {key}={given} must be a mapping of keys")
        if "class" not in given:
            others = [f"callbacks.{other}" for other in config.callbacks if other != name]
            needs = f"{key} needs 'class', the dotted path of a callback"
            raise UserError(f"{config.sources.of(key)}: {needs}.{nearest(key, others)}")
        callback = _build(config, key, given)
        if stage in _stages(config, key, given):
            built[name] = callback
    return built


def _build(config: Config, key: str, given: dict[str, Any]) -> pl.Callback:
    kind = _import_class(config, f"{key}.class", str(given["class"]))
    arguments = {k: v for k, v in given.items() if k not in ("class", "stages")}
    known = inspect.signature(kind).parameters
    for name in arguments:
        if name not in known:
            free = (f"{key}.{argument}" for argument in known)
            raise config.sources.unknown(f"{key}.{name}", free)
    hints = get_type_hints(kind.__init__)
    for name, value in arguments.items():
        if not _fits(value, hints.get(name, Any)):
            source, hint = config.sources.of(f"{key}.{name}"), hints[name]
            wanted = getattr(hint, "__name__", str(hint))
            raise UserError(f"{source}: {key}.{name}={value} must be of type {wanted}")
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        name, equals, _ = str(error).partition("=")  # `every_n_steps=0 must be 1 or more`
        if equals and name in arguments:
            raise UserError(f"{config.sources.of(f'{key}.{name}')}: {key}.{error}") from None
        raise UserError(f"{config.sources.of(key)}: {key}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value may be of a type; types with parameters are not checked."""
    try:
        return isinstance(value, int | float if hint is float else hint)
    except TypeError:
        return True


def _stages(config: Config, key: str, given: dict[str, Any]) -> list[str]:
    """Return the stages that a callback is meant for; by default all of them."""
    stages = given.get("stages", _SECTIONS)
    source = config.sources.of(f"{key}.stages")
    if not isinstance(stages, list):
        example = "must be a list, such as [stage1, stage3]"
        raise UserError(f"{source}: {key}.stages={stages} {example}")
    for stage in stages:
        if stage not in _SECTIONS:
            listed = f"{', '.join(_SECTIONS)}.{nearest(str(stage), _SECTIONS)}"
            raise UserError(f"{source}: {key}.stages={stages}: {stage} is not one of {listed}")
    return stages


def _import_class(config: Config, key: str, path: str) -> type[pl.Callback]:
    where = f"{config.sources.of(key)}: {key}={path}"
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError):
        raise UserError(f"{where} cannot be imported") from None
    kind = getattr(module, class_name, None)
    if not _is_callback(kind):
        known = [f"{module_name}.{k}" for k, value in vars(module).items() if _is_callback(value)]
        raise UserError(f"{where} is not a Lightning callback.{nearest(path, known)}")
    return kind


def _is_callback(value: Any) -> TypeGuard[type[pl.Callback]]:
    return inspect.isclass(value) and issubclass(value, pl.Callback)


def deciding_settings(config: Config, callbacks: Mapping[str, pl.Callback]) -> dict[str, Any]:
    """Return the settings of callbacks that can decide which weights are kept, by name.

    One of ours says which of its settings decide, in `deciding_settings`. Of any other, all do.
    """
    found = {}
    for name, callback in callbacks.items():
        own = getattr(callback, "deciding_settings", None)
        decides = own() if callable(own) else dict(config.callbacks[name])
        if decides:
            found[name] = decides
    return {"callbacks": found} if found else {}
