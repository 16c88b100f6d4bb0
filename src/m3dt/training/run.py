"""A run in training: its configuration, folder, registry and data, opened when first needed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from m3dt.config import Config, save_config, weight_settings
from m3dt.data import DatasetStore, ExpertStreams, M3DTDataModule, TaskStream
from m3dt.plots.tensorboard import write_layout
from m3dt.runs import Entry, Registry
from m3dt.runs.layout import CONFIG, check_run_folder
from m3dt.tasks import tasks_of
from m3dt.training.fingerprint import device_settings, fingerprint_settings
from m3dt.training.ranks import is_first_rank
from m3dt.training.resume import training_folder
from m3dt.utils.errors import UserError
from m3dt.utils.files import remove_temporaries

_ABANDONED = 3600  # seconds after which another process's temporary file is taken for a leftover
# By the number that keys their batches.
_STAGES = ("baseline", "stage1", "stage2", "stage3", "prompt_router")


@dataclass(frozen=True)
class Product:
    """A trained model that awaits registration.

    Attributes:
        name: Within its kind.
        weights: Its tensors.
        tasks: Names of the tasks that it was trained on.
        extra: Further tensors, by the stem of their file.
        metrics: What was measured of it.
    """

    name: str
    weights: dict[str, Tensor]
    tasks: tuple[str, ...]
    extra: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """How a training ended: the step of the weights that are kept, and what was measured."""

    step: int
    metrics: dict[str, Any]


class Run:
    """An experiment on disk."""

    config_file = CONFIG  # where its configuration is kept, in its folder

    def __init__(self, config: Config, console: Console) -> None:
        self.config = config
        self.console = console
        self.folder = Path(config.run)
        self.checkpoints = self.folder / "checkpoints"
        self.registry = Registry(self.folder)
        self.tasks = tasks_of(config)
        self._store: DatasetStore | None = None

    @property
    def store(self) -> DatasetStore:
        """The dataset."""
        if self._store is None:
            config = self.config
            command = f"m3dt collect {config.options}"
            self._store = DatasetStore.open(config.data, self.tasks, config.check_data, command)
            for line in self._store.notes():
                self.console.print(line, style="yellow", markup=False)
        return self._store

    def settings(self, *sections: str) -> dict[str, Any]:
        """Return the settings that weights depend on: see `fingerprint_settings`."""
        return fingerprint_settings(self.config, self.tasks, *sections)

    def resume_settings(self, settings: dict[str, Any], parents: Sequence[Entry]) -> dict[str, Any]:
        """Return what an interrupted training must find as it was, parents and devices included.

        How results are computed counts too: an exact resume repeats each rounding.
        """
        return {
            **settings,
            "parents": {parent.key: parent.hash for parent in parents},
            "dataset": self.store.checksum,
            "compute": weight_settings(self.config.compute),
            "trainer": device_settings(self.config),
        }

    def batches(self, stage: str, streams: ExpertStreams | None = None) -> M3DTDataModule:
        """Return the batches of a stage; by default from one stream over all tasks."""
        config = self.config
        own = getattr(config, stage).batch_size or config.loader.batch_size
        loader, number = replace(config.loader, batch_size=own), _STAGES.index(stage)
        chosen = streams or TaskStream(0, tuple(range(len(self.tasks))))
        return M3DTDataModule(self.store, loader, config.model, config.seed, number, chosen)

    def prompt_batches(self) -> M3DTDataModule:
        """Return the batches of the router by prompts: pieces of all tasks' trajectories."""
        config, everything = self.config, TaskStream(0, tuple(range(len(self.tasks))))
        size, number = config.prompt_router.batch_size, _STAGES.index("prompt_router")
        loader = replace(config.loader, batch_size=size, sampling="mixed", tasks_per_batch=0)
        return M3DTDataModule(
            self.store, loader, config.model, config.seed, number, everything, ends=True
        )

    def describe(
        self,
        kind: str,
        settings: dict[str, Any],
        parents: Sequence[Entry],
        product: Product,
        fitted: Fitted,
    ) -> Entry:
        """Return the registry entry of a model that was just made."""
        return Entry(
            kind,
            product.name,
            settings,
            {parent.key: parent.hash for parent in parents},
            self.store.checksum,
            self.config.seed,
            fitted.step,
            {**fitted.metrics, **product.metrics},
            list(product.tasks),
        )

    @contextmanager
    def training(self, name: str) -> Iterator[Path]:
        """Hold a folder of checkpoints until the weights that come of it are registered.

        Raises:
            UserError: Another process trains the same, or the run's folder is not ours.
        """
        check_run_folder(self.folder)
        with training_folder(self.checkpoints / name) as folder:
            self.begin()
            shared = (self.folder, self.folder / "evaluation", *self.registry.folder.glob("*"))
            for place in shared:
                remove_temporaries(place, older_than=_ABANDONED)
            yield folder

    def begin(self) -> None:
        """Create the run's folder and keep the configuration in it.

        Raises:
            UserError: It cannot be written, or is a folder of something else.
        """
        check_run_folder(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_config(self.config, self.folder / self.config_file)
            if is_first_rank():
                write_layout(self.folder, self.tasks)
        except OSError as error:
            raise UserError(f"run={self.folder}: cannot be written ({error.strerror})") from None
