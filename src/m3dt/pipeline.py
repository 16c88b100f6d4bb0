"""The three stages in order: open, build, fit, register. Finished work is recognised and kept."""

from __future__ import annotations

import time
from typing import Any

import torch

from m3dt.agent import MAIN, add_experts, check_parent, inference_device
from m3dt.config import Config
from m3dt.data import Stream, TaskContext
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
from m3dt.registry import Entry
from m3dt.run import Run
from m3dt.stages import BackboneStage, ExpertStage, RouterStage, seed_of
from m3dt.stages.grouping import agreement_gram, gradient_groups, random_groups


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
