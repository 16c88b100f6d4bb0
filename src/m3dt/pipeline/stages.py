"""The three stages in order: open, build, fit, register. Finished work is recognised and kept."""

from __future__ import annotations

import torch

from m3dt.agent import MAIN, check_parent, inference_device, load_expert
from m3dt.data import Stream, TaskContext
from m3dt.errors import UserError
from m3dt.fitting import build_callbacks, fit
from m3dt.logs import write_groups
from m3dt.models import PromptDT
from m3dt.pipeline.parents import (
    build_backbone,
    check_groups,
    check_method,
    stopping,
    trained_backbone,
    trained_experts,
)
from m3dt.pipeline.spread import devices_of, spread_experts
from m3dt.registry import Entry
from m3dt.resuming import is_first_rank, started_settings, wait_for
from m3dt.run import Run
from m3dt.stages import BackboneStage, ExpertStage, RouterStage, seed_of
from m3dt.stages.grouping import agreement_gram, gradient_groups, random_groups


def stage1(run: Run) -> Entry:
    """Train the backbone on all tasks, until its gradient conflict has peaked."""
    check_method(run)
    check_groups(run)
    callbacks = build_callbacks(run.config, "stage1")
    settings = {**run.settings("stage1"), "callbacks": stopping(run.config)}
    done = run.finished("backbone", MAIN, settings)
    if done is not None:
        run.console.print(f"stage 1 is finished: backbone at step {done.step}. Nothing to do.")
        return done
    data = run.data_for(1)
    torch.manual_seed(seed_of(run.config.seed, 1))
    stage = BackboneStage(PromptDT(run.config.model), run.config.stage1, run.config.seed)
    unchanged = run.resume_settings(settings)
    with run.training("stage1") as folder:
        step, metrics = fit(run.config, stage, data, callbacks, unchanged, folder, run.console)
        entry = run.entry("backbone", MAIN, settings, [], step, metrics)
        context = TaskContext.from_store(run.store, run.config.loader, run.config.model)
        if is_first_rank():
            entry = run.registry.save(entry, stage.model.state_dict(), tasks=context.tensors())
    run.console.print(f"stage 1: backbone registered, weights of step {step}.")
    return entry


def group(run: Run) -> Entry:
    """Divide the tasks among the experts."""
    check_method(run)
    config = run.config
    settings = run.settings("grouping", "moe.num_experts")
    num_groups, num_tasks = config.moe.num_experts, len(run.tasks)
    check_groups(run)
    backbone = trained_backbone(run, "group")
    if not is_first_rank():
        wait_for(lambda: run.registry.has("grouping", MAIN))  # the first rank groups for all
    done = run.finished("grouping", MAIN, settings)
    if done is not None:
        check_parent(run.registry, done, backbone)
        run.console.print("tasks are grouped already. Nothing to do.")
        return done
    run.begin()
    tensors, gram = {}, None
    if config.grouping.method == "random":
        groups = random_groups(num_tasks, num_groups, config.seed)
    else:
        stage = BackboneStage(build_backbone(run, backbone), config.stage1, config.seed)
        stage.to(inference_device(config))
        gram = agreement_gram(stage, run.data_for(1), config.grouping)
        groups = gradient_groups(gram, num_groups, config.grouping.restarts, config.seed)
        tensors["agreement_gram"] = torch.from_numpy(gram)
    labels = torch.empty(num_tasks, dtype=torch.int64)
    for g, members in enumerate(groups):
        labels[members] = g
    named = [[run.tasks[i] for i in members] for members in groups]
    entry = run.entry("grouping", MAIN, settings, [backbone], 0, {"groups": named})
    entry = run.registry.save(entry, {"labels": labels, **tensors})
    write_groups(run.folder, gram, groups, run.tasks)
    for g, names in enumerate(named):
        run.console.print(f"  group {g}: {', '.join(names)}")
    return entry


def stage2(run: Run) -> list[Entry]:
    """Train this shard's experts, each on its own task group."""
    check_method(run)
    config = run.config
    if config.moe.training == "ungrouped":
        run.console.print("moe.training=ungrouped: experts train in stage 3. Nothing to do.")
        return []
    callbacks = build_callbacks(config, "stage2")
    backbone = trained_backbone(run, "stage2")
    settings = run.settings("grouping", "moe.num_experts", "moe.expert", "stage2")
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
    devices = devices_of(run)
    if len(devices) > 1:
        names = [str(k) for k in mine]
        spread_experts(
            run, devices, lambda: all(run.registry.has("expert", name) for name in names)
        )
        return [run.registry.get("expert", name) for name in names]
    name = "stage2" if count == "1" else f"stage2-{index}-of-{count}"
    with run.training(name) as folder:
        started = started_settings(folder)
        experts = started["experts"] if started else missing
        groups = grouping.metrics["groups"]
        position = {task: i for i, task in enumerate(run.tasks)}
        streams = [Stream(k, tuple(position[task] for task in groups[k])) for k in experts]
        model = build_backbone(run, backbone)
        model.add_mixtures(len(experts), routed=False, moe=config.moe)
        stage = ExpertStage(model, config.stage2, config.seed, experts)
        unchanged = {**run.resume_settings(settings, backbone, grouping), "experts": experts}
        data = run.data_for(2, streams)
        step, metrics = fit(config, stage, data, callbacks, unchanged, folder, run.console)
        if is_first_rank():
            for k, weights in stage.expert_weights().items():
                parents, tasks = [backbone, grouping], tuple(groups[k])
                entry = run.entry("expert", str(k), settings, parents, step, metrics, tasks)
                if k in missing:
                    run.registry.save(entry, weights)
    run.console.print(f"stage 2: {len(missing)} experts registered, {step} steps each.")
    return [run.registry.get("expert", str(k)) for k in mine]


def stage3(run: Run) -> Entry:
    """Train the routers on all tasks over the frozen backbone and experts.

    With another `moe.training`, the experts train too: those of stage 2, or fresh ones.
    """
    check_method(run)
    config = run.config
    callbacks = build_callbacks(config, "stage3")
    backbone = trained_backbone(run, "stage3")
    ungrouped = config.moe.training == "ungrouped"
    sections = ("moe", "stage3") if ungrouped else ("grouping", "moe", "stage3")
    settings = run.settings(*sections)
    experts = [] if ungrouped else trained_experts(run, backbone)
    done = run.finished("router", MAIN, settings)
    if done is not None:
        for parent in (backbone, *experts):
            check_parent(run.registry, done, parent)
        run.console.print(f"stage 3 is finished: router at step {done.step}. Nothing to do.")
        return done
    data = run.data_for(3)
    model = build_backbone(run, backbone)
    torch.manual_seed(seed_of(config.seed, 3))
    model.add_mixtures(config.moe.num_experts, routed=True, moe=config.moe)
    for number, expert in enumerate(experts):
        load_expert(model, number, run.registry.tensors(expert))
    train_experts = config.moe.training != "frozen_experts"
    stage = RouterStage(model, config.stage3, config.seed, train_experts)
    if ungrouped:
        stage.reset_experts()
    unchanged = run.resume_settings(settings, backbone, *experts)
    with run.training("stage3") as folder:
        step, metrics = fit(config, stage, data, callbacks, unchanged, folder, run.console)
        entry = run.entry("router", MAIN, settings, [backbone, *experts], step, metrics)
        if is_first_rank():
            entry = run.registry.save(entry, stage.weights())
    run.console.print(f"stage 3: router registered, {step} steps.")
    return entry
