"""Import the authors' checkpoints into a run's registry."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from m3dt.checkpoints.official_files import (
    Weights,
    model_sizes,
    read_expert,
    read_file,
    read_moe,
    sort_experts,
    steps_in_name,
)
from m3dt.checkpoints.official_names import backbone_from_official
from m3dt.config import Config, load_config, save_config, weight_settings
from m3dt.data import DatasetStore, TaskContext
from m3dt.data.format import INDEX
from m3dt.models import PromptDT
from m3dt.models.shapes_only import shapes_only
from m3dt.runs import MAIN
from m3dt.runs.entries import Entry
from m3dt.runs.layout import CONFIG, check_run_folder
from m3dt.runs.registry import Registry
from m3dt.runs.tensors import check_tensors
from m3dt.tasks import tasks_of
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError
from m3dt.utils.files import sha256, sole_writer, staging_folder


@dataclass(frozen=True)
class _Files:
    """A backbone, its experts, and the mixture if there is one."""

    backbone: Path
    experts: Sequence[Path]
    moe: Path | None

    def hashes(self) -> dict[str, str]:
        paths = (self.backbone, *self.experts, self.moe)
        return {path.name: sha256(path) for path in paths if path is not None}

    def steps(self) -> dict[str, int]:
        """Return the optimiser steps of each kind of model."""
        files = {"backbone": self.backbone, "router": self.moe}
        files["expert"] = self.experts[0] if self.experts else None
        return {kind: steps_in_name(path) if path else 0 for kind, path in files.items()}


@dataclass(frozen=True)
class _Models:
    """Weights; those of the router are empty without a mixture, and may include its experts."""

    backbone: Weights
    experts: list[Weights]
    router: Weights


def import_checkpoint(
    conf: str,
    overrides: Sequence[str],
    backbone: Path,
    experts: Sequence[Path],
    moe: Path | None,
    console: Console,
) -> None:
    """Register the authors' files as the models of a run.

    Width, layers and number of experts are read from the tensors. If the configuration's dataset
    exists, its prompts and statistics are stored with the models, which can then be evaluated.

    Args:
        conf: A configuration, which names the suite.
        overrides: Overrides of it, including the run and `model.n_head`.
        backbone: `prompt_model_*`.
        experts: `expert_<k>_*` in any order; empty to take the experts in `moe`.
        moe: `moe__*`, or None for a backbone with separate experts.
        console: Where a summary is printed.

    Raises:
        UserError: A file is damaged, contains code, or does not fit the others; or the run holds
            models already. Nothing is registered then.
    """
    files = _Files(backbone, sort_experts(experts), moe)
    content = read_file(backbone)
    sizes = [f"model.{key}={value}" for key, value in model_sizes(backbone, content).items()]
    config = load_config(conf, ["compat=official", *overrides, *sizes])
    models = _read_models(files, content, config)
    found = (Path(config.data) / INDEX).is_file()
    store = DatasetStore.open(config.data, tasks_of(config)) if found else None
    _register(config, files, models, store)
    run, model, router = config.run, config.model, "a" if models.router else "no"
    shape = (
        f"width {model.n_embd}, {counted(model.n_layer, 'layer')}, {counted(model.n_head, 'head')}"
    )
    bodies = counted(len(models.experts), "expert")
    console.print(f"{run}: backbone of {shape}; {bodies}; {router} router.")
    if store is None:
        console.print("Without a dataset it cannot be evaluated: import with data=FOLDER for that.")
    console.print(f"Its configuration: --conf {Path(run) / CONFIG}")


def _read_models(files: _Files, backbone: Mapping[str, Any], config: Config) -> _Models:
    """Read and check all files, given the content of the backbone's file."""
    state = backbone_from_official(backbone)
    with shapes_only():
        expected = PromptDT(config.model).state_dict()
    check_tensors(files.backbone, state, expected)
    experts = [read_expert(path, config.model) for path in files.experts]
    if files.moe is None:
        return _Models(state, experts, {})
    own_experts, router = read_moe(files.moe, config.model)
    experts = experts or own_experts
    if len(own_experts) != len(experts):
        own, given = counted(len(own_experts), "expert"), counted(len(experts), "expert file")
        raise UserError(f"{files.moe}: holds {own}, but the command names {given}")
    pairs = zip(own_experts, experts, strict=True)
    if not all(torch.equal(own[name], given[name]) for own, given in pairs for name in own):
        for name in experts[0]:  # they went on training with the router
            layer, _, weight = name.partition(".")
            router[f"{layer}.experts.{weight}"] = torch.stack([e[name] for e in own_experts])
    return _Models(state, experts, router)


def _register(config: Config, files: _Files, models: _Models, store: DatasetStore | None) -> None:
    """Write all models and the configuration, or nothing."""
    run = Path(config.run)
    check_run_folder(run)
    with sole_writer(run), staging_folder(run) as staging:
        if (run / "registry").exists():
            raise UserError(f"{run}: holds models already. Give another --run.")
        registry = Registry(staging)
        _save_models(registry, config, files, models, store)
        config.moe.num_experts = len(models.experts) or config.moe.num_experts
        save_config(config, run / CONFIG)
        os.replace(registry.folder, run / "registry")


def _save_models(
    registry: Registry, config: Config, files: _Files, models: _Models, store: DatasetStore | None
) -> None:
    tasks, steps, checksum = list(tasks_of(config)), files.steps(), store.checksum if store else ""
    settings = {
        "seed": config.seed,
        "tasks": tasks,
        "model": asdict(config.model),
        "loader": weight_settings(config.loader),
        "imported": files.hashes(),
        "history": config.evaluation.history,
    }
    moe: dict[str, Any] = {"num_experts": len(models.experts)}
    if any(".experts." in name for name in models.router):
        moe["training"] = "unfrozen_experts"
    mixture = {"grouping": asdict(config.grouping), "moe": moe}

    def entry(kind: str, name: str, parents: Sequence[Entry], more: dict[str, Any]) -> Entry:
        lineage = {parent.key: parent.hash for parent in parents}
        described = {**settings, **more}
        return Entry(kind, name, described, lineage, checksum, config.seed, steps[kind], {}, tasks)

    extra: dict[str, Mapping[str, Tensor]] = {}
    if store is not None:
        extra["tasks"] = TaskContext.from_store(store, config.loader, config.model).tensors()
    root = registry.save(entry("backbone", MAIN, [], {}), models.backbone, **extra)
    parents = [root]
    for k, expert in enumerate(models.experts):
        parents.append(registry.save(entry("expert", str(k), [root], mixture), expert))
    if models.router:
        registry.save(entry("router", MAIN, parents, mixture), models.router)
