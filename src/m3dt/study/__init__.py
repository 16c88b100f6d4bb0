"""Studies: grids of settings, each cell trained and evaluated once, one table of scores."""

from m3dt.study.documents import fill, fill_documents
from m3dt.study.grid import SCORES, Cell, Study, load_study
from m3dt.study.merging import merge_tables
from m3dt.study.outputs import (
    FIGURES,
    TABLES,
    claims,
    claims_table,
    report_of,
    write_outputs,
)
from m3dt.study.pieces import LONGEST_PIECE
from m3dt.study.runner import run_study, show_pieces
from m3dt.study.status import show_status
from m3dt.study.study_results import Results

__all__ = [
    "FIGURES",
    "LONGEST_PIECE",
    "SCORES",
    "TABLES",
    "Cell",
    "Results",
    "Study",
    "claims",
    "claims_table",
    "fill",
    "fill_documents",
    "load_study",
    "merge_tables",
    "report_of",
    "run_study",
    "show_pieces",
    "show_status",
    "write_outputs",
]
