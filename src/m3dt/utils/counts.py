"""Counts with their nouns, as messages and tables print them."""

import re


def counted(number: int, noun: str) -> str:
    """Return a count with its noun in the right form: `1 task`, `2 tasks`, `3 trajectories`."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Return the plural of a noun, whose last word is inflected."""
    if re.search("[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def agreeing(number: int, one: str, many: str) -> str:
    """Return the words, such as a verb, that agree with a count."""
    return one if number == 1 else many
