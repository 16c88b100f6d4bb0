"""Build the callbacks that a configuration names by the dotted paths of their classes."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from m3dt.config import Config
from m3dt.config.instances import build, check_given
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
        others = [f"callbacks.{other}" for other in config.callbacks if other != name]
        check_given(config, key, given, others, "a callback")
        arguments = {word: value for word, value in given.items() if word != "stages"}
        callback = build(config, key, arguments, pl.Callback, "a Lightning callback")
        if stage in _stages(config, key, given):
            built[name] = callback
    return built


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
