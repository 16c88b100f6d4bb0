"""Import datasets of other projects. An import succeeds as a whole or changes nothing."""

from m3dt.data.importers.import_tasks import FORMATS, import_dataset

__all__ = ["FORMATS", "import_dataset"]
