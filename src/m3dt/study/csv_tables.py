"""Read tables in CSV; refuse damaged ones by name."""

import csv
import math
from collections.abc import Collection, Sequence
from operator import attrgetter
from pathlib import Path

from m3dt.config import Config
from m3dt.config.fields import settings_of
from m3dt.utils.errors import UserError
from m3dt.utils.shell import quoted

Rows = list[dict[str, str]]
SCORE_COLUMNS = ("run", "model", "task", "score", "mflop", "ms")  # of `m3dt compare --csv`
_NAMES = {"part", "title", "cell", "settings", "dataset"}  # texts, besides the settings


def read_table(file: Path) -> Rows:
    """Return the rows of a CSV.

    Raises:
        UserError: It is not text, or a row has other columns than the first line.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows: Rows = list(csv.DictReader(lines, restkey="", strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: is not a table ({error}). Restore it, or delete it.") from None
    for number, row in enumerate(rows, 1):
        if "" in row or None in row.values():
            raise _damaged(file, number, "does not have the columns of the first line")
    return rows


def is_score_table(file: Path) -> bool:
    """Tell whether a CSV has the columns of `m3dt compare --csv`."""
    return _holds_scores(read_table(file))


def _holds_scores(rows: Rows) -> bool:
    return any(set(row) == set(SCORE_COLUMNS) for row in rows[:1])


def read_study_table(file: Path) -> Rows:
    """Return the rows of a study's table, which has a column per setting that it varies.

    Raises:
        UserError: As for `read_table`, or it is a table of `m3dt compare`, or a row holds no number
            where one belongs.
    """
    rows = read_table(file)
    if _holds_scores(rows):
        raise UserError(
            f"{file}: holds scores by run, model and task, not those of a study. Show them: "
            f"`{quoted('m3dt', 'compare', file, '--against', rows[0]['model'])}`."
        )
    columns = list(rows[0]) if rows else []
    base = Config()
    texts = {*_NAMES, *settings_of(base)}
    numbers = {name for name in columns if name not in texts and "." not in name}
    numbers |= {name for name in columns if "." in name and _is_numeric(base, name)}
    check_numbers(file, rows, numbers & {"score"}, needed=True)
    check_numbers(file, rows, numbers - {"parameters"})
    check_numbers(file, rows, numbers & {"parameters"}, needed=True, whole=True)
    check_numbers(file, rows, {"seed"} & {*columns}, whole=True)
    return rows


def _is_numeric(config: Config, key: str) -> bool:
    """Tell whether a dotted key is that of a setting with numbers."""
    try:
        default = attrgetter(key)(config)
    except AttributeError:  # a domain of a user's own, or a setting of an earlier version
        return False
    return isinstance(default, int | float) and not isinstance(default, bool)


def check_numbers(
    file: Path,
    rows: Sequence[dict[str, str]],
    columns: Collection[str],
    needed: bool = False,
    whole: bool = False,
) -> None:
    """Refuse a table in which something else than numbers stands in some columns.

    A column may be empty unless it is needed.

    Raises:
        UserError: A row is like that.
    """
    kind = "a whole number" if whole else "a number"
    for number, row in enumerate(rows, 1):
        for column in columns:
            text = row[column]
            if (text or needed) and not _is_number(text, needed, whole):
                raise _damaged(file, number, f"has {column}={text:.40}, which is not {kind}")


def _is_number(text: str, needed: bool, whole: bool) -> bool:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        return False
    return whole or not math.isinf(value) and not (needed and math.isnan(value))


def _damaged(file: Path, row: int, how: str) -> UserError:
    return UserError(f"{file}: row {row} {how}. Restore the file, or delete it.")
