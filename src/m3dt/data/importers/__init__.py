"""Datasets of other projects, read into ours: nothing is half-written when one fails."""

from m3dt.data.importers.import_tasks import FORMATS, import_dataset

__all__ = ["FORMATS", "import_dataset"]
