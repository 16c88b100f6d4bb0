"""Every key of the schema: its name, type, default, allowed values and meaning."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import Field, dataclass
from typing import Any

from m3dt.config.fields import Choices, Range, Section, settings_of
from m3dt.config.schema import Config


@dataclass(frozen=True)
class Key:
    """A setting: `section` is empty for those above the sections, such as `seed`."""

    section: str
    name: str
    type: str
    default: Any
    allowed: str
    """Range or choices in words; empty where any value of the type is allowed."""
    meaning: str

    @property
    def dotted(self) -> str:
        """The name in files and overrides, such as `stage1.max_steps`."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def summary(self) -> str:
        """The first sentence of the meaning."""
        return self.meaning.partition(". ")[0].rstrip(".") + "."


def all_keys() -> list[Key]:
    """Return all keys: first those above the sections, then each section's, as declared."""
    config = Config()
    sections = {n: s for n in settings_of(config) if isinstance(s := getattr(config, n), Section)}
    above = [key for key in _keys("", config) if key.name not in sections]
    return above + [key for name, section in sections.items() for key in _keys(name, section)]


def section_meanings() -> dict[str, str]:
    """Return what each section is about, by its name."""
    config = Config()
    own = _meanings(Config)
    return {
        name: own.get(name) or inspect.cleandoc(type(section).__doc__ or "")
        for name in settings_of(config)
        if isinstance(section := getattr(config, name), Section)
    }


def _keys(section: str, settings: Section) -> Iterator[Key]:
    meanings = _meanings(type(settings))
    for name, declared in settings_of(settings).items():
        kind = str(getattr(declared.type, "__name__", declared.type))
        kind = str(declared.type) if "[" in str(declared.type) else kind
        default = getattr(settings, name)
        yield Key(section, name, kind, default, _allowed(declared), meanings.get(name, ""))


def _allowed(declared: Field[Any]) -> str:
    """Return the rule of a setting in words."""
    rule = declared.metadata.get("rule")
    if isinstance(rule, Choices):
        return ", ".join((*rule.words, *(["a number"] if rule.numbers else [])))
    if isinstance(rule, Range):
        return rule.words()
    return "true, false" if declared.type is bool else ""


def _meanings(section: type[Section]) -> dict[str, str]:
    """Return the text below each field in a class's source; inherited fields keep theirs."""
    found: dict[str, str] = {}
    for parent in reversed(section.__mro__):
        if not (issubclass(parent, Section) and parent is not Section):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(parent))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found
