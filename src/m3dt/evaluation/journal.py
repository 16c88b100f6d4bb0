"""Episodes as they end, on disk: an evaluation that was interrupted goes on with the others."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from m3dt.evaluation.scores import Episode
from m3dt.evaluation.sessions import Tile


class Journal:
    """A file with a line a tile, each with the key of what its episodes depend on.

    Lines of other keys are left alone: two evaluations may write at the same time.

    Args:
        path: The file.
        key: What the episodes depend on.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self.episodes: dict[Tile, list[Episode]] = {}
        if path.is_file():
            self._read(path.read_text().splitlines())

    def _read(self, lines: Sequence[str]) -> None:
        for line in lines:
            try:
                key, rows = json.loads(line)
                if key != self.key:
                    continue
                found = [Episode(*values) for values in rows]
                tile = Tile(found[0].task, tuple(episode.number for episode in found))
            except (ValueError, TypeError, IndexError):
                continue  # a line that a kill cut short
            self.episodes[tile] = found

    def add(self, tile: Tile, episodes: list[Episode]) -> None:
        """Keep the episodes of a tile."""
        self.episodes[tile] = episodes
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps([self.key, [astuple(episode) for episode in episodes]])
        with self.path.open("a") as file:
            file.write(f"\n{line}\n")  # a line that a kill cut short must not swallow this one
            file.flush()
            os.fsync(file.fileno())

    def delete(self) -> None:
        """Remove the file: its episodes have become a result."""
        self.path.unlink(missing_ok=True)
