"""An experiment's place on disk: what it is made of, what is there already, what belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from m3dt.agent import inference_device
from m3dt.config import Config, save_config
from m3dt.data import DatasetStore, M3DTDataModule, Stream
from m3dt.data.format import INDEX
from m3dt.errors import UserError
from m3dt.files import remove_temporaries
from m3dt.folders import CONFIG, check_run_folder
from m3dt.logs import write_layout
from m3dt.registry import Entry, Registry
from m3dt.resuming import differences, is_first_rank, training_folder, wait_for
from m3dt.tasks import tasks_of


class Run:
    """An experiment: its configuration, registry and data, opened when first needed."""

    def __init__(self, config: Config, console: Console) -> None:
        self.config = config
        self.console = console
        self.folder = Path(config.run)
        self.registry = Registry(self.folder)
        self.tasks = tasks_of(config)
        self._store: DatasetStore | None = None

    @property
    def store(self) -> DatasetStore:
        """The dataset."""
        if self._store is None:
            config = self.config
            self._store = DatasetStore.open(config.data, self.tasks, config.check_data)
        return self._store

    def settings(self, *sections: str) -> dict[str, Any]:
        """Return what weights depend on: seed, tasks, model, batches, and what is named.

        Args:
            sections: Of the configuration, whole (`stage1`) or a key of one (`moe.num_experts`).
        """
        config = self.config
        loader = asdict(config.loader)
        del loader["num_workers"]
        chosen: dict[str, Any] = {
            "seed": config.seed,
            "tasks": list(self.tasks),
            "model": asdict(config.model),
            "loader": loader,
        }
        for section in sections:
            name, _, only = section.partition(".")
            found = asdict(getattr(config, name))
            for key in ("checkpoint_every", "max_bad_steps", "shard", "memory_gb"):
                found.pop(key, None)
            chosen.setdefault(name, {}).update({only: found[only]} if only else found)
        return chosen

    def resume_settings(self, settings: dict[str, Any], *parents: Entry) -> dict[str, Any]:
        """Return what an interrupted stage must find as it was: also parents, data, devices.

        How results are computed counts too: an exact resume repeats each rounding.
        """
        trainer = self.config.trainer
        return {
            **settings,
            "parents": {parent.key: parent.hash for parent in parents},
            "dataset": self.store.checksum,
            "compute": asdict(self.config.compute),
            "trainer": {
                "devices": _num_devices(trainer.get("devices", 1)),
                "accelerator": inference_device(self.config),
                **{k: trainer.get(k) for k in ("num_nodes", "precision")},
            },
        }

    def data_for(self, stage: int, streams: list[Stream] | None = None) -> M3DTDataModule:
        """Return the batches of a stage; by default one stream over all tasks."""
        everything = [Stream(0, tuple(range(len(self.tasks))))]
        c = self.config
        own = (c.baseline, c.stage1, c.stage2, c.stage3)[stage].batch_size
        loader = replace(c.loader, batch_size=own or c.loader.batch_size)
        return M3DTDataModule(self.store, loader, c.model, c.seed, stage, streams or everything)

    def finished(self, kind: str, name: str, settings: dict[str, Any]) -> Entry | None:
        """Return a registered model if it is the one that these settings and data make.

        Raises:
            UserError: The registered one was made with others.
        """
        entry = self.registry.find(kind, name) or self._reused(kind, name, settings)
        if entry is None:
            return None
        changed = differences(with_defaults(entry.settings, settings), settings)
        if not changed and (Path(self.config.data) / INDEX).is_file():
            # Where the dataset has been removed, there is nothing to compare.
            changed = "data" if entry.dataset != self.store.checksum else ""
        if changed:
            raise UserError(
                f"{self.folder}: {entry.key} was made with other settings: {changed}. Give another "
                f"run=FOLDER, or delete {self.registry.folder / kind / name}."
            )
        return entry

    def _reused(self, kind: str, name: str, settings: dict[str, Any]) -> Entry | None:
        """Take a model from the run `reuse` if it is the one that would be trained here.

        Raises:
            UserError: There is no such run.
        """
        if not self.config.reuse:
            return None
        other = Registry(self.config.reuse)
        if not other.folder.is_dir():
            raise UserError(f"reuse={self.config.reuse}: holds no models")
        entry = other.find(kind, name)
        if entry is None:
            return None
        changed = differences(with_defaults(entry.settings, settings), settings)
        if not changed and entry.dataset != self.store.checksum:
            changed = "data"
        if not changed and not self.registry.holds(entry.parents):
            changed = "what it was trained on"
        if changed:
            self.console.print(f"{entry.key} of {self.config.reuse} is another: {changed}.")
            return None
        self.console.print(f"{entry.key} is taken from {self.config.reuse}.")
        check_run_folder(self.folder)
        if is_first_rank():
            self.registry.adopt(other, entry)
        wait_for(lambda: self.registry.has(kind, name))  # the first rank copies for all
        return self.registry.get(kind, name)

    def entry(
        self,
        kind: str,
        name: str,
        settings: dict[str, Any],
        parents: list[Entry],
        step: int,
        metrics: dict[str, Any],
        tasks: tuple[str, ...] | None = None,
    ) -> Entry:
        """Describe a model that was just made."""
        lineage = {parent.key: parent.hash for parent in parents}
        checksum, names = self.store.checksum, list(tasks or self.tasks)
        return Entry(
            kind, name, settings, lineage, checksum, self.config.seed, step, metrics, names
        )

    @contextmanager
    def training(self, stage: str) -> Iterator[Path]:
        """Hold the folder of a stage's checkpoints until its weights are registered.

        Raises:
            UserError: Another process trains the same stage, or the run's folder is not ours.
        """
        check_run_folder(self.folder)
        with training_folder(self.folder / "checkpoints" / stage) as folder:
            self.begin()
            for shared in (
                self.folder,
                self.folder / "evaluation",
                *self.registry.folder.glob("*"),
            ):
                remove_temporaries(shared, older_than=3600)
            yield folder

    def begin(self) -> None:
        """Create the run's folder and keep the configuration in it.

        Raises:
            UserError: It cannot be written, or is a folder of something else.
        """
        check_run_folder(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_config(self.config, self.folder / CONFIG)
            if is_first_rank():
                write_layout(self.folder)
        except OSError as error:
            raise UserError(f"run={self.folder}: cannot be written ({error.strerror})") from None


def _num_devices(asked: Any) -> int | str:
    """Return how many devices are meant, `auto` and lists counted; what is no number as it is."""
    if isinstance(asked, list | tuple):
        return len(asked)
    if str(asked) in ("auto", "-1"):
        return torch.cuda.device_count() or 1
    return int(asked) if str(asked).isdigit() else str(asked)


def with_defaults(found: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Complete settings that were recorded before some keys existed: those had their defaults."""
    defaults = asdict(Config())
    filled = dict(found)
    for section, keys in asked.items():
        known, recorded = defaults.get(section), found.get(section)
        if isinstance(keys, dict) and isinstance(known, dict) and isinstance(recorded, dict):
            filled[section] = {**{k: known[k] for k in keys if k in known}, **recorded}
    return filled
