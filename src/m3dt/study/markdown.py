"""Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def stated(values: Mapping[Any, float], key: object) -> str:
    """Return a number of the paper as text, empty if the paper does not state it."""
    return f"{values[key]:g}" if key in values else ""
