"""What `m3dt config` prints: a resolved configuration, or the keys of the schema."""

import textwrap
from collections.abc import Sequence

from rich.console import Console

from m3dt.config import Key, all_keys
from m3dt.config.resolved import in_yaml, resolved_lines
from m3dt.utils.errors import UserError, nearest


def print_config(conf: str, overrides: Sequence[str], console: Console) -> None:
    """Print a configuration as YAML, each key with its source and its meaning.

    Raises:
        UserError: A key, a value or a task is wrong.
    """
    from m3dt.tasks.experiment import load_experiment

    for word in overrides:
        if "=" not in word:
            raise UserError(
                f"m3dt config {word}: write key=value for an override, or `m3dt config keys {word}`"
            )
    for line in resolved_lines(load_experiment(conf, overrides)):
        console.print(line)


def print_keys(wanted: Sequence[str], console: Console) -> None:
    """Print keys with their default, type, allowed values and meaning.

    `wanted` are sections or dotted keys; all keys, if there are none.

    Raises:
        UserError: There is no such section or key.
    """
    keys = all_keys()
    names = {name for key in keys for name in (key.section, key.dotted)} - {""}
    for name in wanted:
        if name not in names:
            hint = nearest(name, sorted(names)) or " `m3dt config keys` lists all."
            raise UserError(f"m3dt config keys {name}: no section and no key.{hint}")
    chosen = [key for key in keys if not wanted or {key.section, key.dotted} & {*wanted}]
    for key in chosen:
        console.print(_head(key))
        words = textwrap.wrap(key.meaning, min(console.width, 100) - 4, break_long_words=False)
        console.print(textwrap.indent("\n".join(words), "    "))


def _head(key: Key) -> str:
    allowed = f"; {key.allowed}" if key.allowed else ""
    return f"{key.dotted} = {in_yaml(key.default)}  ({key.type}{allowed})"
