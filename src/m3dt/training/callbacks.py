"""Build the callbacks that a configuration names by the dotted paths of their classes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl

from m3dt.config import Config
from m3dt.utils.errors import UserError, nearest


def build_callbacks(config: Config, stage: str) -> list[pl.Callback]:
    """Build the callbacks that the configuration names for a stage.

    Raises:
        UserError: A class or an argument does not exist, or a value is refused.
    """
    built = []
    for name, given in config.callbacks.items():
        where = f"callbacks.{name}"
        if given is None:
            continue  # switched off
        if not isinstance(given, dict) or "class" not in given:
            raise UserError(f"{where}: needs 'class', the dotted path of a callback")
        arguments = {k: v for k, v in given.items() if k not in ("class", "stages")}
        kind = _import_class(where, given["class"])
        known = list(inspect.signature(kind).parameters)
        for key in arguments:
            if key not in known:
                raise UserError(f"unknown key '{where}.{key}'.{nearest(key, known)}")
        try:
            callback = kind(**arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {error}") from None
        stages = given.get("stages", [stage])
        if not isinstance(stages, list):
            raise UserError(f"{where}.stages={stages}: must be a list, such as [stage1, stage3]")
        if stage in stages:
            built.append(callback)
    return built


def _import_class(where: str, path: str) -> type[pl.Callback]:
    module_name, _, class_name = str(path).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError):
        raise UserError(f"{where}.class={path}: cannot be imported") from None
    if not (inspect.isclass(kind) and issubclass(kind, pl.Callback)):
        raise UserError(f"{where}.class={path}: is no lightning Callback")
    return kind


def deciding_settings(callbacks: Sequence[pl.Callback]) -> dict[str, Any]:
    """Return the settings of callbacks that can decide which weights are kept, or nothing.

    A callback that only observes says so with an empty `deciding_settings`; one that does not
    know the question is taken to decide by its type and its simple attributes.
    """
    found = {}
    for callback in callbacks:
        own = getattr(callback, "deciding_settings", None)
        decides = own() if callable(own) else _simple_attributes(callback)
        if decides:
            found[type(callback).__name__] = decides
    return {"callbacks": found} if found else {}


def _simple_attributes(callback: pl.Callback) -> dict[str, Any]:
    kinds = bool | int | float | str | None
    simple = {k: v for k, v in vars(callback).items() if isinstance(v, kinds)}
    return simple or {"class": f"{type(callback).__module__}.{type(callback).__qualname__}"}
