"""The authors' checkpoints: import into a run's registry, and export in their format."""

from m3dt.checkpoints.export_official import export_checkpoint
from m3dt.checkpoints.import_official import import_checkpoint

__all__ = ["export_checkpoint", "import_checkpoint"]
