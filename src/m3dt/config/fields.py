"""Declare the range and the choices of settings, and whether weights depend on them.

A declaration is metadata of a dataclass field::

    max_steps: int = number(400_000, low=1)
    decay: str = choice("none", ("none", "cosine"))
    checkpoint_every: int = number(5000, low=1, weights=False)
"""

from __future__ import annotations

import math
import operator
import re
import sys
from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from m3dt.config.aliases import ALIASES
from m3dt.utils.errors import UserError, nearest, shortened
from m3dt.utils.paths import user_path

IGNORED = "omegaconf_ignore"  # OmegaConf's mark of a field that is not a setting
_PATH = "path"  # our mark of one that names a file or a folder
_LIMITS = {
    "low": (operator.ge, "{} or more"),
    "above": (operator.gt, "more than {}"),
    "high": (operator.le, "{} or less"),
    "below": (operator.lt, "less than {}"),
}
TYPE_WORDS: dict[type, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
}  # fmt: skip
_TYPES: dict[str, Any] = {kind.__name__: kind for kind in TYPE_WORDS}
T = TypeVar("T")
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Range:
    """Limits of a number. `low` and `high` are allowed values, `above` and `below` are not."""

    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None

    def problem(self, value: float) -> str:
        """Return what is wrong with a value, or an empty string."""
        if isinstance(value, float) and not math.isfinite(value):
            return "" if value in (self.low, self.high) else "must be a finite number"
        if isinstance(value, int) and value >= 2**63:
            return "must be less than 2^63"
        given = {name: limit for name in _LIMITS if (limit := getattr(self, name)) is not None}
        if all(_LIMITS[name][0](value, limit) for name, limit in given.items()):
            return ""
        return f"must be {self.words()}"

    def words(self) -> str:
        """Return the limits in words, such as `0 or more and less than 1`."""
        given = {name: limit for name in _LIMITS if (limit := getattr(self, name)) is not None}
        return " and ".join(_LIMITS[name][1].format(limit) for name, limit in given.items())


@dataclass(frozen=True)
class Choices:
    """The words that a setting may have; with `numbers`, also a whole number of 1 or more."""

    words: tuple[str, ...]
    numbers: bool = False

    def problem(self, value: str) -> str:
        """Return what is wrong with a value, or an empty string."""
        if value in self.words or (self.numbers and re.fullmatch(r"[1-9]\d{0,8}", value)):
            return ""
        known = ", ".join((*self.words, *(["a number"] if self.numbers else [])))
        return f"is not one of {known}.{nearest(str(value), self.words)}"


def setting(default: T, rule: Range | Choices | None = None, weights: bool = True) -> T:
    """Declare a setting by its default value and the rule that its values obey, if any.

    `weights` says whether it can change a bit of the weights that a training makes.
    """
    return field(default=default, metadata={"rule": rule, "weights": weights})


def path_setting(default: str = "") -> str:
    """Declare a file or a folder, in which `~` is a home folder; see `setting`."""
    return field(default=default, metadata={_PATH: True})


def number(default: Number, weights: bool = True, **limits: float) -> Number:
    """Declare a number within the limits of a `Range`; see `setting`."""
    return setting(default, Range(**limits), weights)


def choice(
    default: str, words: tuple[str, ...], weights: bool = True, numbers: bool = False
) -> str:
    """Declare a setting that is one of a few words, or a number; see `Choices` and `setting`."""
    return setting(default, Choices(words, numbers), weights)


class SettingError(ValueError):
    """Settings, named below their section, are wrong; the problem has a `{}` for each."""

    def __init__(self, section: Section, problem: str, *names: str) -> None:
        self.problem = problem
        self.values = {name: operator.attrgetter(name)(section) for name in names}
        super().__init__(self.message())

    def message(self, prefix: str = "") -> str:
        """Return the message, with a prefix such as `stage1.` before each setting."""
        return self.problem.format(*(f"{prefix}{k}={shortened(v)}" for k, v in self.values.items()))


@dataclass
class Section:
    """A group of settings that checks each one against its declaration."""

    def __post_init__(self) -> None:
        for name, declared in settings_of(self).items():
            if declared.metadata.get(_PATH) and getattr(self, name):
                setattr(self, name, str(user_path(getattr(self, name))))
            value, problem = _typed(getattr(self, name), declared.type)
            setattr(self, name, value)
            rule = declared.metadata.get("rule")
            if not problem and rule:
                problem = rule.problem(value)
            if problem:
                raise SettingError(self, f"{{}} {problem}", name)


def _typed(value: Any, declared: Any) -> tuple[Any, str]:
    """Return a value, numpy's as Python's, and what is wrong with its type, if anything."""
    if getattr(value, "shape", None) == ():  # a scalar of numpy
        value = value.item()
    kind = _TYPES.get(getattr(declared, "__name__", declared))
    if kind is None or type(value) is kind or (kind is float and type(value) is int):
        return value, ""
    if not isinstance(value, kind) or isinstance(value, bool):
        return value, f"must be {TYPE_WORDS[kind]}"
    return kind(value), ""


def settings_of(section: Section) -> dict[str, Field[Any]]:
    """Return the declared settings of a section by name."""
    return {f.name: f for f in fields(section) if not f.metadata.get(IGNORED)}


def weight_settings(section: Section) -> dict[str, Any]:
    """Return the settings of a section that can change a bit of the weights."""
    declared = settings_of(section).items()
    return {name: getattr(section, name) for name, f in declared if f.metadata.get("weights", True)}


def from_yaml(value: Any, declared: Field[Any]) -> Any:
    """Return a value as it was meant, where YAML reads it as another type.

    YAML reads `on` and `off` as booleans, and `1e2` and `100.0` as floats.
    """
    rule = declared.metadata.get("rule")
    if isinstance(value, bool) and isinstance(rule, Choices) and {"on", "off"} <= {*rule.words}:
        return "on" if value else "off"
    if isinstance(value, float) and value.is_integer() and type(declared.default) is int:
        return int(value)
    if type(value) is int and type(declared.default) is float and abs(value) > sys.float_info.max:
        return math.inf if value > 0 else -math.inf  # which ranges refuse by name
    return value


class Sources(dict[str, str]):
    """The file, override or preset that gave each dotted key, in the order of the layers.

    `conf` is the name or path of the experiment, `overrides` its `key=value`, as they were given.
    """

    conf = ""
    overrides: tuple[str, ...] = ()

    def record(self, key: str, source: str) -> None:
        """Note that a source gives a key, whatever gave it before."""
        self.pop(key, None)
        self[key] = source

    def of(self, *keys: str) -> str:
        """Return the latest source of some keys, or of keys below or above them."""
        for given, source in reversed(self.items()):
            if any(f"{given}.".startswith(f"{key}.") for key in keys):
                return source
        above = {key.rpartition(".")[0] for key in keys} - {""}
        return self.of(*above) if above else "defaults"

    def unknown(self, key: str, known: Iterable[str]) -> UserError:
        """Return the error that refuses a key, with the nearest known one.

        The same name in another section comes first; without a section, all of them are listed.
        """
        known, name = list(known), key.rpartition(".")[2]
        elsewhere = [other for other in known if other.rpartition(".")[2] == name]
        meant = ALIASES.get(key)
        if meant:
            hint = f" Did you mean '{meant}'?"
        elif key == name and len(elsewhere) > 1:
            hint = f" Name its section: {', '.join(elsewhere)}."
        else:
            hint = nearest(key, elsewhere or known)
        return UserError(f"{self.of(key)}: unknown key '{key}'.{hint}")
