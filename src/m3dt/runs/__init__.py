"""What a run keeps on disk: its folder, its registry of models, and models put together from it."""

from m3dt.runs.assemble import build_model, inference_device, load_expert
from m3dt.runs.entries import Entry
from m3dt.runs.lineage import check_lineage, check_parent
from m3dt.runs.registry import BY_PROMPT, MAIN, Registry

__all__ = [
    "BY_PROMPT",
    "MAIN",
    "Entry",
    "Registry",
    "build_model",
    "check_lineage",
    "check_parent",
    "inference_device",
    "load_expert",
]
