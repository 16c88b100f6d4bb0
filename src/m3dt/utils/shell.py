"""Words of a command as a shell takes them."""

import shlex

_SPECIAL = set('"$`\\!')  # these mean something in double quotes, too


def quoted(*words: object) -> str:
    """Return words as a shell takes them, such as `m3dt collect "tasks=[a,b]"`."""
    return " ".join(map(_quoted, map(str, words)))


def _quoted(word: str) -> str:
    plain = shlex.quote(word)
    return plain if plain == word or _SPECIAL & set(word) else f'"{word}"'
