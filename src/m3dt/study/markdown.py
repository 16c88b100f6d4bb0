"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from m3dt.study.estimates import NOT_MEASURED, Estimate

Stated = Mapping[Any, float] | None  # numbers of the paper


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def measured(value: Estimate | None) -> str:
    """Return what a table says of a mean over seeds."""
    return NOT_MEASURED if value is None else str(value)


def stated(values: Stated, key: Any) -> str:
    """Return what a table says of a number of the paper, which need not state it."""
    return f"{values[key]:g}" if values and key in values else ""
