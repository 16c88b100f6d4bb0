"""The authors' checkpoints: into a run's registry, and back into their files."""

from m3dt.checkpoints.export import export_checkpoint
from m3dt.checkpoints.importing import import_checkpoint

__all__ = ["export_checkpoint", "import_checkpoint"]
