"""The authors' checkpoints into a run's registry."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from m3dt.checkpoints.official_files import (
    Weights,
    check,
    in_order,
    read_expert,
    read_file,
    read_moe,
    sizes,
    step_of,
)
from m3dt.config import load_config, save_config
from m3dt.data import DatasetStore, TaskContext
from m3dt.data.format import INDEX
from m3dt.models import PromptDT
from m3dt.models.official import backbone_from_official, below
from m3dt.runs import MAIN
from m3dt.runs.layout import CONFIG, check_run_folder
from m3dt.runs.registry import Entry, Registry
from m3dt.tasks import tasks_of
from m3dt.utils.errors import UserError
from m3dt.utils.files import sha256, sole_writer, staging_folder


def import_checkpoint(
    conf: str,
    overrides: Sequence[str],
    backbone: Path,
    experts: Sequence[Path],
    moe: Path | None,
    console: Console,
) -> None:
    """Register the authors' files as the models of a run.

    Width, layers and number of experts are read from the tensors. If the configuration's data
    folder holds its suite, prompts and statistics make the models able to act in it.

    Args:
        conf: A configuration, for the suite.
        overrides: Its overrides, among them the run and `model.n_head`.
        backbone: `prompt_model_*`.
        experts: `expert_<k>_*`, in the order of k; without them, those within `moe` are taken.
        moe: `moe__*`, or None for a backbone with single experts.
        console: Where what was registered is told.

    Raises:
        UserError: A file is damaged, asks to execute something, or does not fit the others; or the
            run holds models already. Nothing is registered then.
    """
    content = read_file(backbone)
    found = [f"model.{key}={value}" for key, value in sizes(backbone, content).items()]
    config = load_config(conf, ["compat=official", *overrides, *found])
    run, model = Path(config.run), config.model
    state = backbone_from_official(content)
    with torch.device("meta"):  # sizes that a file claims cost no memory
        expected = PromptDT(model).state_dict()
    check(backbone, state, expected)
    experts = in_order(experts)
    bodies = [read_expert(path, model) for path in experts]
    router: Weights = {}
    if moe is not None:
        within, router = read_moe(moe, model)
        bodies = bodies or within
        if len(within) != len(bodies):
            raise UserError(f"{moe}: holds {len(within)} experts, but {len(bodies)} files came")
        if not _equal(within, bodies):  # they went on training with the router
            own = {f"{k}.{name}": t for k, body in enumerate(within) for name, t in body.items()}
            router |= _stacked(own, len(within))
    tasks, store = tasks_of(config), None
    if (Path(config.data) / INDEX).is_file():
        store = DatasetStore.open(config.data, tasks)
    settings = {"seed": config.seed, "tasks": list(tasks), "model": asdict(model)}
    files = {str(p.name): sha256(p) for p in (backbone, *experts, moe) if p is not None}
    settings["imported"] = files
    settings["history"] = config.evaluation.history
    mixed = {"grouping": asdict(config.grouping), "moe": {"num_experts": len(bodies)}}
    if any(".experts." in name for name in router):
        mixed["moe"]["training"] = "unfrozen_experts"

    steps = {"backbone": step_of(backbone), "router": step_of(moe) if moe else 0}
    steps["expert"] = step_of(experts[0]) if experts else 0

    def entry(kind: str, name: str, parents: Sequence[Entry], more: dict[str, Any]) -> Entry:
        lineage = {parent.key: parent.hash for parent in parents}
        checksum, step = store.checksum if store else "", steps.get(kind, 0)
        described = {**settings, **more}
        return Entry(kind, name, described, lineage, checksum, config.seed, step, {}, list(tasks))

    check_run_folder(run)
    with sole_writer(run), staging_folder(run) as staging:
        if (run / "registry").exists():
            raise UserError(f"{run}: holds models already. Give another --run.")
        registry = Registry(staging)
        extra: dict[str, Mapping[str, Tensor]] = {}
        if store is not None:
            extra["tasks"] = TaskContext.from_store(store, config.loader, model).tensors()
        root = registry.save(entry("backbone", MAIN, [], {}), state, **extra)
        parents = [
            registry.save(entry("expert", str(k), [root], mixed), body)
            for k, body in enumerate(bodies)
        ]
        if router:
            registry.save(entry("router", MAIN, [root, *parents], mixed), router)
        config.moe.num_experts = len(bodies) or config.moe.num_experts
        save_config(config, run / CONFIG)
        os.replace(registry.folder, run / "registry")
    told = f"backbone of width {model.n_embd}, {model.n_layer} layers, {model.n_head} heads"
    console.print(f"{run}: {told}; {len(bodies)} experts; {'a' if router else 'no'} router.")
    if store is None:
        console.print("Without a dataset it cannot be evaluated: import with data=FOLDER for that.")
    console.print(f"Its configuration: --conf {run / CONFIG}")


def _equal(one: Sequence[Weights], other: Sequence[Weights]) -> bool:
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


def _stacked(experts: Weights, count: int) -> Weights:
    """Return `<layer>.experts.<name>` with an expert axis, from `<k>.<layer>.<name>`."""
    first = below("0.", experts)
    stacked = {}
    for name in first:
        layer, _, weight = name.partition(".")
        parts = [experts[f"{k}.{name}"] for k in range(count)]
        stacked[f"{layer}.experts.{weight}"] = torch.stack(parts)
    return stacked
