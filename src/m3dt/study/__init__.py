"""Studies: grids of settings, each cell trained and evaluated once, one table of scores.

Here is what reads results. What trains and merges is in `runner`, `pieces`, `status` and `merging`.
"""

from m3dt.study.design import has_design
from m3dt.study.documents import fill, fill_documents
from m3dt.study.grid import Cell, Study, load_study
from m3dt.study.outputs import (
    FIGURES,
    TABLES,
    claims,
    claims_table,
    report_of,
    write_outputs,
)
from m3dt.study.study_results import Results

__all__ = [
    "FIGURES",
    "TABLES",
    "Cell",
    "Results",
    "Study",
    "claims",
    "claims_table",
    "fill",
    "fill_documents",
    "has_design",
    "load_study",
    "report_of",
    "write_outputs",
]
