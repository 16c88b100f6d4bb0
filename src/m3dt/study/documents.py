"""Fill marked places of Markdown documents with results of studies.

A mark names a table in `results` and what to write. Of a study that is a claim, a table, or
`summary`; of a table of `m3dt compare` see `result_texts`. On a line of its own, what it marks lies
on lines of its own, too. GitHub shows no marks::

    M3DT against its backbone. <!-- result: lite/backbone -->...<!-- end -->
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from m3dt.study.claims.claim import MISSING
from m3dt.study.csv_tables import is_score_table
from m3dt.study.outputs import claims, report_of
from m3dt.study.paired_texts import result_texts
from m3dt.study.score_rows import table_rows
from m3dt.study.study_results import Results
from m3dt.utils.errors import UserError, nearest
from m3dt.utils.files import atomic_path

_BEGIN, _END = "<!-- result: ", "<!-- end -->"
_PLACE = re.compile(rf"{_BEGIN}(?P<name>[^\n]*?) -->(?P<old>.*?){_END}", re.DOTALL)
_LINE_START = re.compile(r"\s*([-*+]|\d+\.)?\s*")  # of a paragraph or an item of a list


def fill_documents(files: Sequence[Path], folder: Path) -> list[Path]:
    """Write results into the marked places of documents; return the documents that changed.

    Args:
        files: The documents.
        folder: Where the tables of the studies lie, such as `lite.csv`.

    Raises:
        UserError: A document or a table does not exist, a mark is unknown, or what it names was
            not measured. No document is written then.
    """
    texts = {file: _text_of(file) for file in files}
    filled = {file: fill(file, folder) for file in files}
    changed = [file for file, text in texts.items() if text != filled[file]]
    for file in changed:
        with atomic_path(file) as temporary:
            temporary.write_text(filled[file], "utf-8")
    return changed


def _text_of(file: Path) -> str:
    if not file.is_file():
        raise UserError(f"{file}: no such document")
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text ({error}). Save it as UTF-8.") from None


def fill(file: Path, folder: Path) -> str:
    """Return the text of a document with results in its marked places; see `fill_documents`."""
    text = _text_of(file)
    places = list(_PLACE.finditer(text))
    inside = any(_BEGIN in place["old"] for place in places)
    if inside or not len(places) == text.count(_BEGIN) == text.count(_END):
        raise UserError(
            f"{file}: each {_BEGIN}STUDY/NAME --> needs its own {_END} behind it, and each "
            f"{_END} a mark before it"
        )
    known: dict[str, dict[str, str]] = {}
    for place in places:
        study = place["name"].partition("/")[0]
        table = folder / f"{study}.csv"
        if not table.is_file():
            hint = nearest(study, [path.stem for path in folder.glob("*.csv")])
            raise UserError(f"{file}: {place['name']}: there is no {table}.{hint}")
        if study not in known:
            known[study] = _texts(table)
    return _PLACE.sub(partial(_filled, file, known), text)


def _texts(table_file: Path) -> dict[str, str]:
    """Return all that a mark can name, as Markdown, empty where something was not measured."""
    if is_score_table(table_file):
        return result_texts(table_rows(table_file))
    results = Results.read(table_file)
    shown = {claim.name: claim.statement() for claim in claims(results)}
    shown |= {
        title: table(results).rstrip("\n") for title, table in report_of(results).tables.items()
    }
    measured = {name: "" if MISSING in text else text for name, text in shown.items()}
    return {**measured, "summary": results.summary()}


def _filled(file: Path, known: dict[str, dict[str, str]], place: re.Match[str]) -> str:
    """Return a place, with its marks, that holds the result it names."""
    study, _, what = place["name"].partition("/")
    before = place.string[: place.start()].split("\n")
    where, texts = f"{file}, line {len(before)}: {place['name']}", known[study]
    if what not in texts:
        raise UserError(f"{where}: the results have no '{what}'.{nearest(what, texts)}")
    if not texts[what]:
        raise UserError(
            f"{where}: this was not measured, so it cannot be written. Remove the mark, or run "
            f"`m3dt study conf/study/{study}.yaml`."
        )
    alone = place["old"].startswith("\n")
    if not alone and _LINE_START.fullmatch(before[-1]):
        raise UserError(
            f"{where}: GitHub shows a line that starts with a mark as it is written. Begin the "
            "line with a word, or give both marks lines of their own."
        )
    text = f"\n{texts[what]}\n" if alone else texts[what]
    return f"{_BEGIN}{place['name']} -->{text}{_END}"
