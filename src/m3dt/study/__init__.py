"""Studies: grids of settings, each cell trained and evaluated once, one table of results."""

from m3dt.study.cells import SCORES, Cell, Study, load_study
from m3dt.study.claims import claims, claims_table
from m3dt.study.estimates import Results
from m3dt.study.pages import PAGES, TABLES, write_pages
from m3dt.study.runner import run_study

__all__ = [
    "PAGES",
    "SCORES",
    "TABLES",
    "Cell",
    "Results",
    "Study",
    "claims",
    "claims_table",
    "load_study",
    "run_study",
    "write_pages",
]
