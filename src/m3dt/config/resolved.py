"""A resolved configuration as YAML, with the source and the meaning of each key as comments."""

from collections.abc import Iterator
from typing import Any

import yaml

from m3dt.config.fields import Section, Sources, settings_of
from m3dt.config.keys import Key, all_keys, section_meanings
from m3dt.config.load import CONF_FOLDERS, config_values
from m3dt.config.schema import Config

DEFAULT, DERIVED, COMMAND_LINE = "default", "derived", "command line"


def resolved_lines(config: Config) -> Iterator[str]:
    """Yield the lines of a YAML file that `load_config` reads back to the same configuration.

    Each key has a comment: where its value comes from, and the first sentence of its meaning.
    """
    keys, meanings, values = all_keys(), section_meanings(), config_values(config)
    above = {key.name: key for key in keys if not key.section}
    for name, key in above.items():
        yield from _lines(name, values[name], key, config.sources, "")
    for name in (n for n in settings_of(config) if isinstance(getattr(config, n), Section)):
        yield ""
        yield f"{name}:  # {meanings[name].partition('. ')[0].rstrip('.')}."
        for key in (key for key in keys if key.section == name):
            yield from _lines(key.name, values[name][key.name], key, config.sources, "  ")


def in_yaml(value: Any) -> str:
    """Return a value in one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


def _lines(name: str, value: Any, key: Key, sources: Sources, indent: str) -> Iterator[str]:
    """Yield the lines of a key; below `trainer`, `callbacks` and `loggers` any key is allowed."""
    if isinstance(value, dict) and value:
        yield f"{indent}{name}:  # {key.summary}"
        for below, own in value.items():
            yield from _free_lines(below, own, f"{key.dotted}.{below}", sources, f"{indent}  ")
        return
    source = sources.get(key.dotted, "")
    if not source:
        source = DEFAULT if value == key.default else DERIVED
    yield f"{indent}{name}: {in_yaml(value)}  # {_named(source)}: {key.summary}"


def _free_lines(name: str, value: Any, dotted: str, sources: Sources, indent: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        yield f"{indent}{in_yaml(name)}:"
        for below, own in value.items():
            yield from _free_lines(below, own, f"{dotted}.{below}", sources, f"{indent}  ")
        return
    while dotted and dotted not in sources:  # given as a whole with what is above it
        dotted = dotted.rpartition(".")[0]
    source = sources.get(dotted, DEFAULT)
    yield f"{indent}{in_yaml(name)}: {in_yaml(value)}  # {_named(source)}"


def _named(source: str) -> str:
    """Return a source in words: `base`, `command line`, a preset or a file."""
    if source == str(CONF_FOLDERS[-1] / "base.yaml"):
        return "base"
    return COMMAND_LINE if source.startswith("override ") else source
