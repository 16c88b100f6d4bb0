"""Classes of the user's own that a configuration names: the stage's, and the model's."""

from typing import TypeVar

from m3dt.config import Config
from m3dt.models import model_class
from m3dt.runs import Entry
from m3dt.stages import Stage
from m3dt.utils.class_paths import import_class

S = TypeVar("S", bound=Stage)


def check_model_class(config: Config) -> None:
    """Refuse a `model.class_path` that names no model."""
    model_class(config.model, config.sources.of("model.class_path"))


def stage_class(config: Config, section: str, base: type[S]) -> type[S]:
    """Return the class of a stage: m3dt's, or the one that `<section>.class_path` names.

    Raises:
        UserError: The path names no class that is derived from m3dt's.
    """
    key = f"{section}.class_path"
    where = f"{config.sources.of(key)}: {key}"
    return _derived(getattr(config, section).class_path, base, where)


def recorded_stage_class(entry: Entry, section: str, base: type[S]) -> type[S]:
    """Return the class of the stage that made a registered model.

    Raises:
        UserError: It cannot be imported.
    """
    path = entry.settings.get(section, {}).get("class_path", "")
    return _derived(path, base, f"{entry.key}: {section}.class_path")


def _derived(path: str, base: type[S], where: str) -> type[S]:
    if not path:
        return base
    what = f"a stage derived from m3dt.stages.{base.__name__}"
    return import_class(path, base, f"{where}={path}", what)
