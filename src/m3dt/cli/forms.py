"""The right form of a mistyped command line, in one line."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from m3dt.config.aliases import ALIASES
from m3dt.utils.errors import UserError, nearest

# Sections of the configuration that commands of another name read first.
_SECTIONS = {"evaluate": "evaluation", "group": "grouping", "extend": "stage2"}


def check_forms(words: Sequence[str], commands: dict[str, set[str]]) -> None:
    """Refuse a line that another project's habits made, and name its form here.

    `commands` holds the options of each command.

    Raises:
        UserError: A command or an option does not exist, or an override has another form.
    """
    if not words or words[0].startswith("-"):
        return
    command, *rest = words
    if command not in commands:
        raise UserError(f"no command '{command}'.{nearest(command, commands)} (m3dt --help)")
    options = commands[command]
    for i, word in enumerate(rest):
        following = rest[i + 1] if i + 1 < len(rest) else "VALUE"
        name, _, value = word.partition("=")
        if re.fullmatch(r"--[A-Za-z]\S*", word) and not _known(name, options):
            _refuse_option(command, name, value or following, options)
    if {"--conf", "overrides"} <= options:
        _check_places(command, rest, options)


def expand(key: str, known: Iterable[str]) -> str:
    """Return the dotted key that a short one such as `lr` or `max_steps` means, or nothing."""
    if key in ALIASES:
        return ALIASES[key]
    known = list(known)
    ends = [dotted for dotted in known if dotted.rpartition(".")[2] == key]
    close = ends or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return close[0] if close else ""


def _known(name: str, options: set[str]) -> bool:
    return name in ("--help", "--version") or any(o.startswith(name) for o in options)


def _refuse_option(command: str, name: str, value: str, options: set[str]) -> NoReturn:
    from m3dt.config.keys import all_keys

    bare = name.lstrip("-").replace("-", "_")
    key = _own_key(command, bare, [key.dotted for key in all_keys()])
    hint = nearest(name, options & {o for o in options if o.startswith("--")})
    if name == "--config" and "--conf" in options:
        hint = f" Write --conf {value}."
    elif bare == "tasks" and "overrides" in options:
        hint = f" Write tasks=[{value}]."
    elif "overrides" in options and key:
        hint = f" Write {key}={'STEPS' if bare == 'epochs' else value}."  # of another unit
    raise UserError(f"m3dt {command}: no option {name}.{hint}")


def _own_key(command: str, bare: str, keys: Sequence[str]) -> str:
    """Return the dotted key that an option means: in the command's own section, if it is there."""
    last = ALIASES.get(bare, bare).rpartition(".")[2]
    own = f"{_SECTIONS.get(command, command)}.{last}"
    return next((key for key in (own, bare) if key in keys), "") or expand(bare, keys)


def _check_places(command: str, words: Sequence[str], options: set[str]) -> None:
    """Refuse a word that stands where an override should. An option may take several words."""
    of_option = False
    for word in words:
        if word.startswith("-") or "=" in word:
            of_option = word.startswith("--") and "=" not in word
        elif of_option:
            continue
        elif word.endswith((".yaml", ".yml")):
            raise UserError(f"m3dt {command} {word}: write m3dt {command} --conf {word}")
        elif form := _form(word, options):
            raise UserError(f"m3dt {command} {word}: write m3dt {command} {form}")


def _form(word: str, options: set[str]) -> str:
    """Return how a run, an experiment, a method or a task is given, or nothing for other words."""
    from m3dt.config import METHODS
    from m3dt.config.load import shipped_confs
    from m3dt.tasks.catalog import TASKS

    if ("/" in word and "--run" in options) or (Path(word) / "registry").is_dir():
        return f"--run {word}" if "--run" in options else f"run={word}"
    if word in shipped_confs():
        return f"--conf {word}"
    if word in METHODS:
        return f"method={word}"
    return f"tasks=[{word}]" if word in TASKS else ""
