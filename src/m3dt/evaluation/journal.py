"""Episodes as they end, on disk: an evaluation that was interrupted goes on with the others."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from m3dt.evaluation.policies import Tile
from m3dt.evaluation.scores import Episode


class Journal:
    """A file with a line a tile, behind a line that says of what.

    Args:
        path: The file.
        key: What the episodes depend on; a file of another key is begun anew.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.episodes: dict[Tile, list[Episode]] = {}
        lines = path.read_text().splitlines() if path.is_file() else []
        if lines and lines[0] == json.dumps(key):
            self._read(lines[1:])
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(key) + "\n")

    def _read(self, lines: Sequence[str]) -> None:
        for line in lines:
            try:
                found = [Episode(*values) for values in json.loads(line)]
                tile = Tile(found[0].task, tuple(episode.number for episode in found))
            except (ValueError, TypeError, IndexError):
                continue  # a line that a kill cut short
            self.episodes[tile] = found

    def add(self, tile: Tile, episodes: list[Episode]) -> None:
        """Keep the episodes of a tile."""
        self.episodes[tile] = episodes
        with self.path.open("a") as file:
            # A line that a kill cut short must not swallow this one.
            file.write("\n" + json.dumps([astuple(episode) for episode in episodes]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def delete(self) -> None:
        """Remove the file: its episodes have become a result."""
        self.path.unlink(missing_ok=True)
