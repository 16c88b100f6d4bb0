"""Chains of cells that build on each other's runs, which one job takes as a whole."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m3dt.study.grid import Cell, Study
from m3dt.utils.errors import UserError
from m3dt.utils.paths import user_path
from m3dt.utils.shards import parse_shard


def select_cells(study: Study, shard: str, where: Sequence[str] = ()) -> list[Cell]:
    """Return the cells of a shard that have all of the values `where`.

    A cell and the cells whose runs it builds on are in the same shard.

    Raises:
        UserError: `shard` or `where` is malformed, or no cell has the values.
    """
    index, count = parse_shard(shard)
    cells = list(study.cells)
    for word in where:
        setting, _, value = word.partition("=")
        cells = [c for c in cells if {"part": c.part, **c.values}.get(setting) == value]
    if not cells:
        words = " ".join(f"--where {word}" for word in where)
        raise UserError(f"{words}: no cell of the study has that. Give setting=value.")
    chain = chains(study)
    mine = list(dict.fromkeys(chain[cell.name] for cell in cells))[index::count]
    return [cell for cell in cells if chain[cell.name] in mine]


def chains(study: Study) -> dict[str, str]:
    """Return for each cell the first cell of its chain, by their names.

    A run outside the study connects no cells: they only read it.
    """
    folders = {os.path.abspath(study.runs / cell.name): cell.name for cell in study.cells}
    first = {cell.name: cell.name for cell in study.cells}
    for cell in study.cells:
        for source in _sources(cell, folders):
            merged = {first[cell.name], first[source]}
            if len(merged) > 1:
                head = next(c.name for c in study.cells if c.name in merged)
                first = {name: head if at in merged else at for name, at in first.items()}
    return first


def _sources(cell: Cell, folders: dict[str, str]) -> set[str]:
    """Return the other cells whose run, or a file in it, a setting of this cell names."""
    settings = {k: v for k, v in asdict(cell.config).items() if k not in ("run", "sources")}
    words = [str(path) for path in (cell.reuse, cell.copy) if path]
    words += [word.partition("=")[2] for word in cell.evaluated]
    words += _texts(settings)
    found = {name for word in words for name in _run_of(word, folders)}
    return found - {cell.name}


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in nested settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for nested in value.values():
            yield from _texts(nested)
    elif isinstance(value, list | tuple):
        for nested in value:
            yield from _texts(nested)


def _run_of(word: str, folders: dict[str, str]) -> Iterator[str]:
    path = Path(os.path.abspath(user_path(word))) if os.sep in word else None
    for place in (path, *path.parents) if path else ():
        if str(place) in folders:
            yield folders[str(place)]
