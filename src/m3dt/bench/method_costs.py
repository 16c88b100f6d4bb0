"""Parameters, time per step and memory of each method, at small and at large size."""

import torch
from rich.console import Console
from rich.table import Table

from m3dt.bench.devices import Meter
from m3dt.bench.measuring import Row, in_own_process, make_row, median_seconds
from m3dt.bench.steps import random_batch, training_step
from m3dt.config import Config, load_config
from m3dt.models import PromptDT, add_mixtures
from m3dt.stages import BackboneStage, ExpertStage, RouterStage, Stage
from m3dt.tasks import tasks_of
from m3dt.training.jobs import build_baseline
from m3dt.utils.console import progress_bar

SIZES = ("small", "large")
TRAININGS = (
    ("Prompt-DT", "promptdt", "all", 1),
    ("MTDT", "mtdt", "all", 1),
    ("HarmoDT", "harmodt", "all", 1),
    ("HarmoDT, 8 tasks per batch", "harmodt", "all", 8),
    ("M3DT, backbone", "m3dt-gradient", "backbone", 1),
    ("M3DT, one expert", "m3dt-gradient", "one expert", 1),
    ("M3DT, router", "m3dt-gradient", "router", 1),
    ("top-k, router", "m3dt-top-k", "router", 1),
    ("unfrozen or ungrouped, router and experts", "m3dt-ungrouped", "router", 1),
    ("end to end", "m3dt-end-to-end", "all", 1),
    ("big experts, one expert", "m3dt-big-experts", "one expert", 1),
    ("big experts, router", "m3dt-big-experts", "router", 1),
)
"""Name, method, the part of it that trains, and the tasks of a batch.

Grouping and behaviour cloning change none of the measurements.
"""


def methods_rows(console: Console, device: str = "cpu") -> list[Row]:
    """Measure all methods, each training in a process of its own, and print a table."""
    rows = []
    trainings = [(size, *training) for size in SIZES for training in TRAININGS]
    with progress_bar(console, "trainings") as bar:
        shown = bar.add_task("timing methods", total=len(trainings))
        for size, name, method, part, num_tasks in trainings:
            measured = in_own_process(measure_method, size, name, method, part, num_tasks, device)
            rows.append(measured)
            bar.advance(shown)
    console.print(_table(rows))
    return rows


def _table(rows: list[Row]) -> Table:
    table = Table(title="optimiser steps of each method", title_justify="left")
    for column in ("trains", "size", "parameters", "trained", "s per step", "memory GB"):
        table.add_column(column, justify="left" if column in ("trains", "size") else "right")
    for row in rows:
        config = row["config"]
        counts = (f"{config['parameters']:,}", f"{config['trained']:,}")
        measured = (f"{row['median_seconds']:.2f}", f"{row['peak_bytes'] / 1e9:.1f}")
        table.add_row(row["name"], config["size"], *counts, *measured)
    return table


def measure_method(
    size: str, name: str, method: str, part: str, num_tasks: int, device: str = "cpu"
) -> Row:
    """Time an optimiser step of a training in this process, with prompts of 5 steps."""
    torch.set_num_threads(1)
    overrides = [f"method={method}", f"size={size}", "model.prompt_length=5"]
    config = load_config("mt160", overrides)
    stage, meter, model = stage_of(config, part).to(device), Meter(device), config.model
    B = config.loader.batch_size
    batch = random_batch(B, model.context_length, model.prompt_length, device, num_tasks)
    seconds = median_seconds(training_step(stage, batch), 3, 1, meter.now)
    shown = {
        "method": method,
        "size": size,
        "trains": part,
        "n_embd": config.model.n_embd,
        "parameters": stage.model.num_parameters(),
        "device": device,
        "trained": sum(parameter.numel() for parameter in stage.trainable().values()),
    }
    return make_row(name, shown, seconds, B, meter.peak_bytes())


def stage_of(config: Config, part: str) -> Stage:
    """Build the stage of a part of a method: `all`, `backbone`, `one expert` or `router`."""
    if part == "all":
        return build_baseline(config, len(tasks_of(config)))
    model, moe = PromptDT(config.model), config.moe
    if part == "backbone":
        return BackboneStage(model, config.stage1, config.seed)
    if part == "one expert":
        add_mixtures(model, 1, routed=False, moe=moe)
        return ExpertStage(model, config.stage2, config.seed, [0])
    add_mixtures(model, moe.num_experts, routed=True, moe=moe)
    train_experts = moe.training != "frozen_experts"
    return RouterStage(model, config.stage3, config.seed, train_experts)
