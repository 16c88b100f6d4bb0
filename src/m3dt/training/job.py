"""One piece of work: recognise its finished models, or make and register them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl

from m3dt.config import Config
from m3dt.data import M3DTDataModule
from m3dt.runs import MAIN, Entry, Registry, check_lineage, check_parent
from m3dt.runs.beginnings import beginning
from m3dt.stages import Stage
from m3dt.tasks import tasks_of
from m3dt.training.callbacks import build_callbacks, deciding_settings
from m3dt.training.fingerprint import fingerprint_settings, precision
from m3dt.training.finished import find_finished
from m3dt.training.fit import fit
from m3dt.training.own_classes import check_model_class, stage_class
from m3dt.training.ranks import is_first_rank
from m3dt.training.run import Fitted, Product, Run
from m3dt.utils.counts import counted
from m3dt.utils.errors import RunError, UserError


class Job(ABC):
    """Makes models of one kind.

    Attributes:
        title: Its name in messages.
        kind: Registry kind of the models.
        names: Names of the models within the kind.
        parents: Registered models that these build on.
    """

    title: str
    kind: ClassVar[str]
    none = "no models are asked for. Nothing to do."

    def __init__(self, run: Run) -> None:
        self.run = run
        self.names: tuple[str, ...] = (MAIN,)
        self.parents: list[Entry] = []

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings that the models depend on."""

    @abstractmethod
    def make(self, missing: Sequence[str]) -> None:
        """Make the missing models and register them."""

    def register(self, product: Product, fitted: Fitted) -> Entry:
        """Register a model."""
        entry = self.run.describe(self.kind, self.settings(), self.parents, product, fitted)
        return self.run.registry.save(entry, product.weights, **product.extra)


def complete(job: Job) -> list[Entry]:
    """Return the models of a job, made now unless the registry holds them already.

    Raises:
        UserError: The registry holds models made with other settings, data or parents, or what the
            job builds on was made from others than it holds.
        RunError: A model was made, but the registry does not hold it.
    """
    run, settings = job.run, job.settings()
    check_lineage(run.registry, job.parents)
    found = {name: find_finished(run, job.kind, name, settings) for name in job.names}
    for entry in filter(None, found.values()):
        for parent in job.parents:
            check_parent(run.registry, entry, parent)
    missing = [name for name, entry in found.items() if entry is None]
    if missing:
        job.make(missing)
    made = [_made(job, name) for name in job.names]
    count = len(missing or made)
    what = job.kind if count == 1 else counted(count, job.kind)
    steps = "".join(sorted({f", step {entry.step}" for entry in made if entry.step}))
    state = "registered" if missing else "finished before. Nothing to do"
    run.console.print(f"{job.title}: " + (f"{what}{steps}: {state}." if made else job.none))
    return made


def _made(job: Job, name: str) -> Entry:
    """Read back a model that should be registered now."""
    entry = job.run.registry.find(job.kind, name)
    if entry is None:
        raise RunError(
            f"{job.title}: no {job.kind}/{name} in {job.run.registry.folder} after its training. "
            "Only the first of several ranks registers models: unset RANK, SLURM_PROCID and the "
            "like if this is no training on several devices."
        )
    return entry


class TrainingJob(Job):
    """Makes models by fitting a stage.

    Attributes:
        section: Of the configuration: the stage's settings, and its name in callbacks' `stages`.
        begins: Whether its weights may be those of another run at first.
        stage_type: Class of the stage, from which one of the user's is derived.
        resumed_with: What else an interrupted training must find as it was; known once built.
    """

    section: ClassVar[str]
    begins: ClassVar[bool] = False
    stage_type: ClassVar[type[Stage]]

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.names = self.models(run.config)
        self.callbacks = build_callbacks(run.config, self.section)
        check_model_class(run.config)
        stage_class(run.config, self.section, self.stage_type)
        self.resumed_with: dict[str, Any] = {}

    @classmethod
    @abstractmethod
    def sections(cls, config: Config) -> tuple[str, ...]:
        """Return the sections of the configuration that the weights depend on."""

    @classmethod
    def models(cls, config: Config) -> tuple[str, ...]:
        """Return the names of the models within their kind."""
        return (MAIN,)

    @classmethod
    def checkpoints(cls, config: Config) -> str:
        """Return the name of its folder of checkpoints."""
        return cls.section

    @classmethod
    def settings_of(
        cls, config: Config, callbacks: Mapping[str, pl.Callback] | None = None
    ) -> dict[str, Any]:
        """Return the settings that the models depend on; by default the callbacks are built."""
        built = build_callbacks(config, cls.section) if callbacks is None else callbacks
        chosen = fingerprint_settings(config, tasks_of(config), *cls.sections(config))
        if cls.begins and config.init_from:
            chosen["init_from"] = cls._beginning(config)
        return {**chosen, "precision": precision(config), **deciding_settings(config, built)}

    @classmethod
    def _beginning(cls, config: Config) -> str:
        """Return the hash of the first weights, by the record if their run is gone by now."""
        try:
            return beginning(config.init_from).hash
        except UserError:
            finished = Registry(config.run).find(cls.kind, cls.models(config)[0])
            if finished is None or "init_from" not in finished.settings:
                raise
            return str(finished.settings["init_from"])

    @abstractmethod
    def build(self, missing: Sequence[str]) -> tuple[Stage, M3DTDataModule]:
        """Return the stage and the batches that train the missing models."""

    @abstractmethod
    def products(self, stage: Stage) -> Iterator[Product]:
        """Yield the models of a trained stage."""

    def settings(self) -> dict[str, Any]:
        return self.settings_of(self.run.config, self.callbacks)

    def make(self, missing: Sequence[str]) -> None:
        run = self.run
        unchanged = run.resume_settings(self.settings(), self.parents)  # opens the data first
        callbacks = list(self.callbacks.values())
        with run.training(self.checkpoints(run.config)) as folder:
            stage, data = self.build(missing)
            unchanged |= self.resumed_with
            fitted = fit(run.config, stage, data, callbacks, unchanged, folder, run.console)
            for product in self.products(stage):
                if product.name in missing and is_first_rank():
                    self.register(product, fitted)
