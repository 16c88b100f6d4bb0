"""Finished episodes on disk, so that an interrupted evaluation plays only the missing ones."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from m3dt.evaluation.scores import Episode
from m3dt.evaluation.sessions import EpisodeGroup


class Journal:
    """A file with one line per finished group: a key and the group's episodes.

    The key covers everything that the episodes depend on. Lines with another key are ignored, so
    that two evaluations may write to one file.

    Args:
        path: The file.
        key: Key of this evaluation.

    Attributes:
        episodes: The finished episodes by their group.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self.episodes: dict[EpisodeGroup, list[Episode]] = {}
        if path.is_file():
            self._read(path.read_text().splitlines())

    def _read(self, lines: Sequence[str]) -> None:
        for line in lines:
            try:
                key, rows = json.loads(line)
                if key != self.key:
                    continue
                episodes = [Episode(*values) for values in rows]
                numbers = tuple(episode.number for episode in episodes)
                group = EpisodeGroup(episodes[0].task, numbers)
            except (ValueError, TypeError, IndexError):
                continue  # a line cut short by a kill
            self.episodes[group] = episodes

    def add(self, group: EpisodeGroup, episodes: list[Episode]) -> None:
        """Record the episodes of a group."""
        self.episodes[group] = episodes
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps([self.key, [astuple(episode) for episode in episodes]])
        with self.path.open("a") as file:
            file.write(f"\n{line}\n")  # the last line may lack its end after a kill
            file.flush()
            os.fsync(file.fileno())

    def delete(self) -> None:
        """Remove the file, once its episodes have become a result."""
        self.path.unlink(missing_ok=True)
