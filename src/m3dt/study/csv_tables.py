"""Read tables in CSV; refuse damaged ones by name."""

import csv
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from m3dt.utils.errors import UserError

Rows = list[dict[str, str]]


def read_table(file: Path) -> Rows:
    """Return the rows of a CSV.

    Raises:
        UserError: It is no text, or a row has other columns than the first line.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows: Rows = list(csv.DictReader(lines, restkey="", strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: is no table ({error}). Restore it, or delete it.") from None
    for number, row in enumerate(rows, 1):
        if "" in row or None in row.values():
            raise _damaged(file, number, "has not the columns of the first line")
    return rows


def read_study_table(file: Path) -> Rows:
    """Return the rows of a study's table.

    Its columns from the score on, but for settings and names, hold numbers or nothing.

    Raises:
        UserError: As of `read_table`, or a row holds no number where one belongs.
    """
    rows = read_table(file)
    columns = list(rows[0]) if rows else []
    numbers = columns[columns.index("score") :] if "score" in columns else []
    texts = ("cell", "settings")
    check_numbers(file, rows, [name for name in numbers if name not in texts and "." not in name])
    check_numbers(file, rows, [name for name in columns if name == "seed"], whole=True)
    return rows


def check_numbers(
    file: Path, rows: Sequence[dict[str, str]], columns: Collection[str], whole: bool = False
) -> None:
    """Refuse a table that holds something else than numbers in some columns; nothing is allowed.

    Raises:
        UserError: A row does so.
    """
    for number, row in enumerate(rows, 1):
        for column in columns:
            if (text := row[column]) and not _is_number(text, whole):
                raise _damaged(file, number, f"says {column}={text:.40}, which is no number")


def _is_number(text: str, whole: bool) -> bool:
    try:
        return not math.isinf(int(text) if whole else float(text))
    except ValueError:
        return False


def _damaged(file: Path, row: int, how: str) -> UserError:
    return UserError(f"{file}: row {row} {how}. Restore the file, or delete it.")
