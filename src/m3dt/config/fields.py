"""What the fields of the schema say of themselves beside their type."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

_FREE = ("checkpoint_every", "max_bad_steps", "shard", "memory_gb", "num_workers")


def weight_settings(section: Any) -> dict[str, Any]:
    """Return the settings of a section that can change a bit of the weights."""
    return {k: v for k, v in asdict(section).items() if k not in _FREE}
