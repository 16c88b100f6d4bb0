"""Marked places of documents hold what the results say."""

import re
from pathlib import Path

import pytest

from m3dt.cli import main
from m3dt.study import TABLES, Results, claims, fill
from m3dt.study.outputs import tables_and_claims

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = ("results", "study", "routing", "deviations")
FILLED = [ROOT / "README.md", *(ROOT / f"docs/{name}.md" for name in PAGES)]
PLACE = re.compile(r"<!-- result: .*?<!-- end -->", re.DOTALL)
BACKBONE = "<!-- result: lite/backbone -->"


@pytest.mark.parametrize("path", FILLED, ids=lambda path: path.name)
def test_documents_hold_what_the_results_say(path):
    """Otherwise, run `m3dt fill README.md docs/*.md`."""
    assert fill(path, RESULTS) == path.read_text()
    assert PLACE.search(path.read_text())


@pytest.mark.parametrize("path", FILLED, ids=lambda path: path.name)
def test_no_interval_is_typed(path):
    interval = re.compile(r".*\d \[-?\d+\.\d, .*")
    assert interval.findall(PLACE.sub("", path.read_text())) == []
    assert interval.search(path.read_text())  # in marked places


@pytest.mark.parametrize("name", ["tables", "claims"])
@pytest.mark.parametrize(("study", "folder"), [("lite", RESULTS), ("mid", RESULTS / "mid")])
def test_stored_tables_and_claims_are_those_of_the_results(name, study, folder):
    """Otherwise, run `m3dt figures`."""
    made = tables_and_claims(Results.read(RESULTS / f"{study}.csv"))[name]
    assert (folder / f"{name}.md").read_text() == made


def test_places_are_filled(made_up, tmp_path, capsys):
    results = Results.read(made_up())
    table = TABLES["Gains (table 1)"](results)
    (claim,) = (claim for claim in claims(results) if claim.name == "backbone")
    file = tmp_path / "page.md"
    text = (
        "# Title\n\nHere: {BACKBONE}{sentence}<!-- end --> and on.\n\n"
        "<!-- result: lite/Gains (table 1) -->\n{table}<!-- end -->\n"
    )
    file.write_text(text.format(BACKBONE=BACKBONE, sentence="typed [1, 2]\nby hand", table="\nx"))
    command = ["fill", str(file), "--results", str(tmp_path)]
    assert main(command) == 0 and str(file) in capsys.readouterr().out
    expected = text.format(BACKBONE=BACKBONE, sentence=claim.statement(), table=table)
    assert file.read_text() == expected
    assert main(command) == 0 and "already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\na <!-- result: lite/backbonne --><!-- end -->",
         "page.md, line 2: lite/backbonne: the results have no 'backbonne'. Did you mean "
         "'backbone'?"),
        ("a <!-- result: lte/backbone --><!-- end -->", "lte.csv. Did you mean 'lite'?"),
        ("a <!-- result: lite/grouping --><!-- end -->", "this was not measured"),
        ("a <!-- result: lite/Ablations (table 2) --><!-- end -->", "this was not measured"),
        (f"a {BACKBONE}b", "needs its own <!-- end -->"),
        (f"a <!-- end -->{BACKBONE}", "needs its own <!-- end -->"),
        (f"a {BACKBONE} {BACKBONE}<!-- end --> <!-- end -->", "needs its own <!-- end -->"),
        (f"a\n- {BACKBONE}b<!-- end -->", "GitHub shows a line that starts with a mark"),
        (f"a\n{BACKBONE}b<!-- end -->", "GitHub shows a line that starts with a mark"),
    ],
)  # fmt: skip
def test_what_cannot_be_filled_is_named(made_up, tmp_path, capsys, text, message):
    """One message, exit code 2, and no document is written."""
    table = made_up()
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if not line.startswith("ablations")))
    good, wrong = tmp_path / "good.md", tmp_path / "page.md"
    good.write_text(f"a {BACKBONE}old<!-- end -->")
    wrong.write_text(text)
    assert main(["fill", str(good), str(wrong), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert good.read_text().endswith("old<!-- end -->") and wrong.read_text() == text


def test_a_document_must_exist(tmp_path, capsys):
    assert main(["fill", str(tmp_path / "none.md")]) == 2
    assert "none.md: no such document" in capsys.readouterr().err


def test_a_document_must_be_text(tmp_path, capsys):
    (tmp_path / "own.md").write_bytes(b"\xff\xfe")
    assert main(["fill", str(tmp_path / "own.md")]) == 2
    assert "own.md: is not UTF-8 text" in capsys.readouterr().err
