"""Build the objects that a configuration names by the dotted paths of their classes."""

import inspect
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

from m3dt.config.schema import Config
from m3dt.utils.class_paths import import_class
from m3dt.utils.errors import UserError, nearest, shortened

T = TypeVar("T")


def check_given(config: Config, key: str, given: Any, others: Collection[str], what: str) -> None:
    """Refuse what is not a mapping with `class`.

    Args:
        config: The experiment.
        key: Dotted key of the mapping.
        given: Its value.
        others: Dotted keys that may have been meant.
        what: What its class should be, such as `a callback`.

    Raises:
        UserError: It is none.
    """
    if not isinstance(given, dict):
        raise UserError(
            f"{config.sources.of(key)}: {key}={shortened(given)} must be a mapping of keys"
        )
    if "class" not in given:
        needs = f"{key} needs 'class', the dotted path of {what}"
        raise UserError(f"{config.sources.of(key)}: {needs}.{nearest(key, others)}")


def build(
    config: Config,
    key: str,
    given: Mapping[str, Any],
    base: type[T],
    what: str,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> T:
    """Build an object from a mapping with `class` and the arguments of the class.

    Args:
        config: The experiment.
        key: Dotted key of the mapping.
        given: The mapping.
        base: What the class must be derived from.
        what: What such a class is, such as `a Lightning callback`.
        defaults: Arguments for a class that names them, where the mapping does not.

    Raises:
        UserError: The class or an argument does not exist, a value is refused, or the class needs a
            package that is not installed.
    """
    path = str(given["class"])
    where = f"{config.sources.of(f'{key}.class')}: {key}.class={path}"
    kind = import_class(path, base, where, what)
    arguments = {name: value for name, value in given.items() if name != "class"}
    _check_arguments(config, key, kind, arguments)
    known = inspect.signature(kind).parameters
    arguments = {**{k: v for k, v in defaults.items() if k in known}, **arguments}
    try:
        return kind(**arguments)
    except ImportError as error:
        raise UserError(f"{where} needs a package: {' '.join(str(error).split())}") from None
    except (TypeError, ValueError) as error:
        name, equals, _ = str(error).partition("=")  # `every_n_steps=0 must be 1 or more`
        if equals and name in arguments:
            raise UserError(f"{config.sources.of(f'{key}.{name}')}: {key}.{error}") from None
        raise UserError(f"{config.sources.of(key)}: {key}: {error}") from None


def _check_arguments(config: Config, key: str, kind: type[Any], arguments: dict[str, Any]) -> None:
    """Check names and types; a class that takes any keyword gets those it does not name."""
    known = inspect.signature(kind).parameters
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    hints = _hints(kind)
    for name, value in arguments.items():
        if name not in known and not free:
            raise config.sources.unknown(f"{key}.{name}", (f"{key}.{other}" for other in known))
        if name in known and not _fits(value, hints.get(name, Any)):
            source, hint = config.sources.of(f"{key}.{name}"), hints[name]
            wanted = getattr(hint, "__name__", str(hint))
            raise UserError(f"{source}: {key}.{name}={shortened(value)} must be of type {wanted}")


def _hints(kind: type[Any]) -> dict[str, Any]:
    """Return the types of a class's arguments, or none where one is of a package that is absent."""
    try:
        return get_type_hints(kind.__init__)
    except NameError:
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value may be of a type; types with parameters are not checked."""
    try:
        return isinstance(value, int | float if hint is float else hint)
    except TypeError:
        return True
