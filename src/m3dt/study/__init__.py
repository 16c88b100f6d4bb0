"""Studies: grids of settings, each cell trained and evaluated once, one table of results."""

from m3dt.study.cells import SCORES, Cell, Study, load_study
from m3dt.study.run import run_study

__all__ = ["SCORES", "Cell", "Study", "load_study", "run_study"]
