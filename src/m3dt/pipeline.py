"""The three stages in order: open, build, fit, register. Finished work is recognised and kept."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from m3dt.agent import MAIN, add_experts, check_parent, inference_device
from m3dt.config import Config, save_config
from m3dt.data import DatasetStore, M3DTDataModule, Stream, TaskContext
from m3dt.data.format import INDEX
from m3dt.errors import UserError
from m3dt.fitting import (
    build_callbacks,
    differences,
    finish,
    fit,
    is_first_rank,
    started_settings,
    wait_for_all,
)
from m3dt.models import PromptDT
from m3dt.registry import Entry, Registry
from m3dt.stages import BackboneStage, ExpertStage, RouterStage, seed_of
from m3dt.stages.grouping import agreement_gram, gradient_groups, random_groups
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
            self._store = DatasetStore.open(self.config.data, self.tasks)
        return self._store

    def checkpoints(self, stage: str) -> Path:
        """Return the folder of a stage's checkpoints."""
        return self.folder / "checkpoints" / stage

    def settings(self, *sections: str) -> dict[str, Any]:
        """Return what weights depend on: seed, tasks, model, batches, and the named sections."""
        config = self.config
        loader = asdict(config.loader)
        del loader["num_workers"]
        chosen: dict[str, Any] = {
            "seed": config.seed,
            "tasks": list(self.tasks),
            "model": asdict(config.model),
            "loader": loader,
        }
        for name in sections:
            section = asdict(getattr(config, name))
            for key in ("checkpoint_every", "shard", "memory_gb"):
                section.pop(key, None)
            chosen[name] = section
        return chosen

    def resume_settings(self, settings: dict[str, Any], *parents: Entry) -> dict[str, Any]:
        """Return what an interrupted stage must find as it was: also parents, data, devices."""
        trainer = self.config.trainer
        return {
            **settings,
            "parents": {parent.key: parent.hash for parent in parents},
            "dataset": self.store.checksum,
            "trainer": {k: trainer.get(k) for k in ("devices", "num_nodes", "precision")},
        }

    def data_for(self, stage: int, streams: list[Stream] | None = None) -> M3DTDataModule:
        """Return the batches of a stage; by default one stream over all tasks."""
        everything = [Stream(0, tuple(range(len(self.tasks))))]
        c = self.config
        return M3DTDataModule(self.store, c.loader, c.model, c.seed, stage, streams or everything)

    def finished(self, kind: str, name: str, settings: dict[str, Any]) -> Entry | None:
        """Return a registered model if it is the one that these settings and data make.

        Raises:
            UserError: The registered one was made with others.
        """
        entry = self.registry.find(kind, name)
        if entry is None:
            return None
        changed = differences(entry.settings, settings)
        if not changed and (Path(self.config.data) / INDEX).is_file():
            # Where the dataset has been removed, there is nothing to compare.
            changed = "data" if entry.dataset != self.store.checksum else ""
        if changed:
            raise UserError(
                f"{self.folder}: {entry.key} was made with other settings: {changed}. Give another "
                f"run=FOLDER, or delete {self.registry.folder / kind / name}."
            )
        return entry

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

    def begin(self) -> None:
        """Create the run's folder and keep the configuration in it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_config(self.config, self.folder / "config.yaml")
        except OSError as error:
            raise UserError(f"run={self.folder}: cannot be written ({error.strerror})") from None


def stage1(run: Run) -> Entry:
    """Train the backbone on all tasks, until its gradient conflict has peaked."""
    _check_groups(run)
    callbacks = build_callbacks(run.config, "stage1")
    settings = {**run.settings("stage1"), "callbacks": _stopping(run.config)}
    done = run.finished("backbone", MAIN, settings)
    if done is not None:
        run.console.print(f"stage 1 is finished: backbone at step {done.step}. Nothing to do.")
        return done
    data = run.data_for(1)
    run.begin()
    torch.manual_seed(seed_of(run.config.seed, 1))
    stage = BackboneStage(PromptDT(run.config.model), run.config.stage1, run.config.seed)
    folder = run.checkpoints("stage1")
    unchanged = run.resume_settings(settings)
    step, metrics = fit(run.config, stage, data, callbacks, unchanged, folder, run.console)
    entry = run.entry("backbone", MAIN, settings, [], step, metrics)
    context = TaskContext.from_store(run.store, run.config.loader, run.config.model)
    if is_first_rank():
        entry = run.registry.save(entry, stage.model.state_dict(), tasks=context.tensors())
        finish(folder)
    wait_for_all()
    run.console.print(f"stage 1: backbone registered, weights of step {step}.")
    return entry


def group(run: Run) -> Entry:
    """Divide the tasks among the experts."""
    config = run.config
    settings = run.settings("grouping", "moe")
    num_groups, num_tasks = config.moe.num_experts, len(run.tasks)
    _check_groups(run)
    backbone = _trained_backbone(run, "group")
    while not is_first_rank() and run.registry.find("grouping", MAIN) is None:
        time.sleep(0.5)  # the first rank groups for all
    done = run.finished("grouping", MAIN, settings)
    if done is not None:
        check_parent(run.registry, done, backbone)
        run.console.print("tasks are grouped already. Nothing to do.")
        return done
    tensors = {}
    if config.grouping.method == "random":
        groups = random_groups(num_tasks, num_groups, config.seed)
    else:
        stage = BackboneStage(_backbone(run, backbone), config.stage1, config.seed)
        stage.to(inference_device(config))
        grouping = config.grouping
        gram = agreement_gram(stage, run.data_for(1), grouping.num_batches, grouping.memory_gb)
        groups = gradient_groups(gram, num_groups, grouping.restarts, config.seed)
        tensors["agreement_gram"] = torch.from_numpy(gram)
    labels = torch.empty(num_tasks, dtype=torch.int64)
    for g, members in enumerate(groups):
        labels[members] = g
    named = [[run.tasks[i] for i in members] for members in groups]
    entry = run.entry("grouping", MAIN, settings, [backbone], 0, {"groups": named})
    entry = run.registry.save(entry, {"labels": labels, **tensors})
    for g, names in enumerate(named):
        run.console.print(f"  group {g}: {', '.join(names)}")
    return entry


def stage2(run: Run) -> list[Entry]:
    """Train this shard's experts, each on its own task group."""
    config = run.config
    callbacks = build_callbacks(config, "stage2")
    backbone = _trained_backbone(run, "stage2")
    settings = run.settings("grouping", "moe", "stage2")
    index, _, count = config.stage2.shard.partition("/")
    if count != "1" and run.registry.find("grouping", MAIN) is None:
        raise UserError(
            f"{run.folder}: jobs that share stage 2 need the task groups first. "
            f"Run `m3dt group --conf {config.conf}` once."
        )
    grouping = group(run)
    mine = range(int(index), config.moe.num_experts, int(count))
    done = {k: run.finished("expert", str(k), settings) for k in mine}
    for expert in done.values():
        if expert is not None:
            check_parent(run.registry, expert, backbone)
            check_parent(run.registry, expert, grouping)
    missing = [k for k, expert in done.items() if expert is None]
    if not missing:
        run.console.print(f"stage 2 is finished: {len(mine)} experts. Nothing to do.")
        return [expert for expert in done.values() if expert is not None]
    folder = run.checkpoints("stage2" if count == "1" else f"stage2-{index}-of-{count}")
    started = started_settings(folder)
    experts = started["experts"] if started else missing
    groups = grouping.metrics["groups"]
    position = {name: i for i, name in enumerate(run.tasks)}
    streams = [Stream(k, tuple(position[name] for name in groups[k])) for k in experts]
    model = _backbone(run, backbone)
    model.add_mixtures(len(experts), routed=False)
    stage = ExpertStage(model, config.stage2, config.seed, experts)
    unchanged = {**run.resume_settings(settings, backbone, grouping), "experts": experts}
    data = run.data_for(2, streams)
    run.begin()
    step, metrics = fit(config, stage, data, callbacks, unchanged, folder, run.console)
    if is_first_rank():
        for k, weights in stage.expert_weights().items():
            parents, tasks = [backbone, grouping], tuple(groups[k])
            entry = run.entry("expert", str(k), settings, parents, step, metrics, tasks)
            if k in missing:
                run.registry.save(entry, weights)
        finish(folder)
    wait_for_all()
    run.console.print(f"stage 2: {len(missing)} experts registered, {step} steps each.")
    return [run.registry.get("expert", str(k)) for k in mine]


def stage3(run: Run) -> Entry:
    """Train the routers on all tasks over the frozen backbone and experts."""
    config = run.config
    callbacks = build_callbacks(config, "stage3")
    backbone = _trained_backbone(run, "stage3")
    settings = run.settings("grouping", "moe", "stage3")
    experts = _experts(run, backbone)
    done = run.finished("router", MAIN, settings)
    if done is not None:
        for parent in (backbone, *experts):
            check_parent(run.registry, done, parent)
        run.console.print(f"stage 3 is finished: router at step {done.step}. Nothing to do.")
        return done
    data = run.data_for(3)
    run.begin()
    model = _backbone(run, backbone)
    torch.manual_seed(seed_of(config.seed, 3))
    add_experts(model, run.registry, experts, routed=True)
    stage = RouterStage(model, config.stage3, config.seed)
    folder = run.checkpoints("stage3")
    unchanged = run.resume_settings(settings, backbone, *experts)
    step, metrics = fit(config, stage, data, callbacks, unchanged, folder, run.console)
    entry = run.entry("router", MAIN, settings, [backbone, *experts], step, metrics)
    weights = {
        f"{layer}.{name}": tensor
        for layer, mixture in enumerate(model.mixtures)
        if mixture.router is not None
        for name, tensor in mixture.router.state_dict().items()
    }
    if is_first_rank():
        entry = run.registry.save(entry, weights)
        finish(folder)
    wait_for_all()
    run.console.print(f"stage 3: router registered, {step} steps.")
    return entry


def _check_groups(run: Run) -> None:
    experts, tasks = run.config.moe.num_experts, len(run.tasks)
    if experts > tasks:
        raise UserError(f"moe.num_experts={experts}: there are only {tasks} tasks to divide")


def _backbone(run: Run, backbone: Entry) -> PromptDT:
    model = PromptDT(run.config.model)
    model.load_state_dict(run.registry.tensors(backbone))
    return model


def _trained_backbone(run: Run, command: str) -> Entry:
    """Return the backbone that a later stage builds on.

    Raises:
        UserError: There is none, or it was trained on other tasks, data or inputs.
    """
    entry = run.registry.find("backbone", MAIN)
    if entry is None:
        raise UserError(
            f"m3dt {command}: the run {run.folder} has no backbone yet. "
            f"Run `m3dt stage1 --conf {run.config.conf}` first, or give its run=FOLDER."
        )
    asked = run.settings()
    run.finished("backbone", MAIN, {**entry.settings, **asked})
    return entry


def _experts(run: Run, backbone: Entry) -> list[Entry]:
    """Return all experts, or refuse with the names of those missing or of another backbone."""
    found = [run.registry.find("expert", str(k)) for k in range(run.config.moe.num_experts)]
    missing = [str(k) for k, entry in enumerate(found) if entry is None]
    if missing:
        raise UserError(
            f"{run.folder}: {len(missing)} of {len(found)} experts are missing: "
            f"{', '.join(missing)}. Run `m3dt stage2 --conf {run.config.conf}` first."
        )
    grouping = run.registry.get("grouping", MAIN)
    settings = run.settings("moe")
    changed = differences(grouping.settings["moe"], settings["moe"], "moe.")
    if changed:
        raise UserError(f"{run.folder}: the tasks were grouped with other settings: {changed}")
    experts = [entry for entry in found if entry is not None]
    for expert in experts:
        check_parent(run.registry, expert, backbone)
        check_parent(run.registry, expert, grouping)
    return experts


def _stopping(config: Config) -> dict[str, Any]:
    """Return the settings of stage 1's callbacks, which may decide when it stops."""
    named = {n: c for n, c in config.callbacks.items() if c is not None}
    return {n: c for n, c in named.items() if "stage1" in c.get("stages", [])}
