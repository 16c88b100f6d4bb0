"""Tables that keep their numbers and names in any terminal.

Rich shortens what does not fit to `nam…`. Here a table that is too wide wraps its texts at spaces;
where that is not enough it becomes several tables with the same first column, or, in the last
resort, one line for each cell.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

_ENDLESS = 100_000  # a width in which every table fits


def whole(table: Table, console: Console) -> Iterator[RenderableType]:
    """Yield what shows all of a table, in the width of a console.

    Columns that are aligned right or have `no_wrap` are never wrapped. A first column names the
    rows.
    """
    width = console.width
    if _natural_width(table, console) <= width:
        yield table
        return
    if _least_width(table, console) <= width:
        yield _wrapped(table, console)
        return
    groups = list(_groups(table, console))
    if groups:
        for place, columns in enumerate(groups):
            part = _part(table, columns)
            part.title = table.title if place == 0 else None
            part.caption = table.caption if place == len(groups) - 1 else None
            yield from whole(part, console)
    else:
        yield Text("\n".join(_lines(table)))


def _natural_width(table: Table, console: Console) -> int:
    """Return the width of a table that wraps nothing."""
    options = console.options.update(width=_ENDLESS, max_width=_ENDLESS)
    bare = copy.copy(table)
    bare.title = bare.caption = None
    return Measurement.get(console, options, bare).maximum


def _least_width(table: Table, console: Console) -> int:
    """Return the width of a table whose texts break at each space."""
    saved = sum(_widest(column) - _least(column) for column in table.columns)
    return _natural_width(table, console) - saved


def _wrapped(table: Table, console: Console) -> Table:
    """Return a table whose texts are as wide as the console allows."""
    part = _part(table, range(len(table.columns)))
    left = console.width - _least_width(table, console)
    for column in part.columns:
        more = min(left, _widest(column) - _least(column))
        column.width, column.max_width = _least(column) + more, None
        left -= more
    return part


def _groups(table: Table, console: Console) -> Iterator[Sequence[int]]:
    """Yield columns that fit beside the first; nothing if one of them does not."""
    found: list[list[int]] = [[0]]
    for number in range(1, len(table.columns)):
        if _least_width(_part(table, [*found[-1], number]), console) <= console.width:
            found[-1].append(number)
        elif _least_width(_part(table, [0, number]), console) <= console.width:
            found.append([0, number])
        else:
            return
    yield from found


def _part(table: Table, columns: Sequence[int]) -> Table:
    """Return a table of some columns of another."""
    part = copy.copy(table)
    part.columns = [replace(table.columns[c], _index=i) for i, c in enumerate(columns)]
    return part


def _lines(table: Table) -> Iterator[str]:
    """Yield a table as lines: a title, then of each row its name and its cells with headers."""
    if table.title:
        yield _text(table.title)
    headers = [" ".join(_text(column.header).split()) for column in table.columns]
    for row in zip(*(column._cells for column in table.columns), strict=True):
        name, *others = (" ".join(_text(cell).split()) for cell in row)
        yield name or headers[0]
        yield from (f"  {h}: {cell}" for h, cell in zip(headers[1:], others, strict=True) if cell)
    if table.caption:
        yield _text(table.caption)


def _widest(column: Column) -> int:
    return max((cell_len(line) for line in _written(column)), default=0)


def _least(column: Column) -> int:
    """Return the width that a column needs: of its longest word, where it may wrap."""
    if column.no_wrap or column.justify == "right":
        return _widest(column)
    return max((cell_len(word) for line in _written(column) for word in line.split()), default=0)


def _written(column: Column) -> Iterator[str]:
    for cell in (column.header, *column._cells):
        yield from _text(cell).splitlines()


def _text(cell: RenderableType) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
