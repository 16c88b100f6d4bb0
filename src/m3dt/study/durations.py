"""Estimates of how long the commands of a study take on one card, by rules from `step_times`.

1. A step takes `launch + slope * segments`, through the measured batch sizes. Of stage 2 one size
   was measured: its launch is taken to be the backbone's.
2. With E experts behind a router, launch and slope lie on the line from the backbone (E = 0) to the
   router that was measured. In stage 2, the segments of all experts count.
3. Launch and slope grow with the layers. The slope grows with the tokens of a segment (K + prompt)
   and with the weights of a block.
4. A step that is not compiled takes as much longer as was measured at 16 segments.
5. What was timed on a CPU alone enters as a ratio between two methods.
6. A step of HarmoDT on mixed batches is one step per task. Each task of a conflict record, of a
   revision of masks or of a batch of the grouping costs one step.
7. An environment step costs what was measured of the backbone. Of a larger model, a pass takes
   what a training step of as many segments takes beyond the backbone's.
"""

from collections.abc import Sequence
from typing import NamedTuple

from m3dt.config import BASELINES, Config, StageConfig
from m3dt.engine.choices import REPAYS_COMPILING
from m3dt.study.step_times import (
    COMPILING,
    CPU_RATIOS,
    ENVIRONMENT_STEPS,
    MEASURED,
    ONE_EXPERT,
    PROMPT_ROUTER,
    START,
    Measured,
)
from m3dt.tasks import get_task, tasks_of
from m3dt.training import trainings


class Line(NamedTuple):
    """The seconds of a compiled step of the measured model: launch + slope * segments."""

    launch: float
    slope: float


class Duration(NamedTuple):
    """Seconds of a command: before its first step, and of all its steps."""

    start: float
    work: float


def line(kind: str, table: Sequence[Measured] = MEASURED) -> Line:
    """Return the line of a kind of step (rules 1 and 4)."""
    by_mode = {
        compiled: sorted((row.segments, row.seconds) for row in table
                         if (row.kind, row.compiled) == (kind, compiled))
        for compiled in (True, False)
    }  # fmt: skip
    compiled = len(by_mode[True]) >= len(by_mode[False])
    (few, short), *more = by_mode[compiled]
    if not more:
        launch = line("backbone", table).launch
        return Line(launch, (short - launch) / few)
    many, long = more[-1]
    slope = (long - short) / (many - few)
    factor = 1.0 if compiled else 1 / slowdown(kind, table)
    return Line(factor * (short - slope * few), factor * slope)


def slowdown(kind: str, table: Sequence[Measured] = MEASURED) -> float:
    """Return how much longer a step takes uncompiled; the backbone's where none was measured."""
    times = {(row.kind, row.segments, row.compiled): row.seconds for row in table}
    for (found, segments, compiled), seconds in times.items():
        if found == kind and not compiled and (kind, segments, True) in times:
            return seconds / times[kind, segments, True]
    return slowdown("backbone", table)


def step_seconds(config: Config, kind: str, segments: int, compiled: bool = False) -> float:
    """Return the seconds of a step (rules 1 to 4).

    Args:
        config: Gives the size of the model.
        kind: `backbone`, `experts` or `router`.
        segments: Of the step, over all experts.
        compiled: Whether its operations are compiled.
    """
    model = config.model
    width, hidden = model.attention_width or model.n_embd, model.mlp_width or 4 * model.n_embd
    weights = model.n_embd * (4 * width + 2 * hidden) / (256 * (4 * 256 + 2 * 1024))
    tokens = (model.context_length + model.prompt_length) / 40
    launch, slope = line(kind)
    if kind == "router":
        (measured,) = {row.experts for row in MEASURED if row.kind == kind}
        share, alone = config.moe.num_experts / measured, line("backbone")
        launch = alone.launch + share * (launch - alone.launch)
        slope = alone.slope + share * (slope - alone.slope)
    seconds = model.n_layer / 6 * (launch + slope * weights * tokens * segments)
    return seconds if compiled else seconds * slowdown(kind)


def is_known(config: Config) -> bool:
    """Tell whether there is a basis for estimates: one card, in the precision measured."""
    trainer = config.trainer
    one_card = trainer.get("accelerator") in ("gpu", "cuda") and trainer.get("devices", 1) == 1
    return one_card and trainer.get("precision") == "bf16-mixed"


def training_duration(config: Config, command: str, steps: int) -> Duration | None:
    """Estimate some steps of the training that a command runs; None without a basis."""
    if not is_known(config):
        return None
    if command == "stage3" and config.moe.router == "prompt":
        return Duration(START, steps * PROMPT_ROUTER)
    section = trainings(config)[command].section
    stage: StageConfig = getattr(config, section)
    kind = _kind(config, command)
    compiled = config.compute.compile == "on" or (
        config.compute.compile == "auto" and stage.max_steps >= REPAYS_COMPILING
    )
    step = _training_step(config, command, kind, stage, compiled)
    measuring = _measuring(config, section, kind, stage.max_steps) / stage.max_steps
    start = START + (COMPILING[kind] if compiled else 0.0)
    if command == "stage2" and config.grouping.method == "gradient":
        gradients = config.grouping.num_batches * len(tasks_of(config))
        start += gradients * step_seconds(config, "backbone", config.loader.batch_size)
    return Duration(start, steps * (step + measuring))


def _kind(config: Config, command: str) -> str:
    kinds = {"stage1": "backbone", "stage2": "experts", "stage3": "router"}
    return kinds.get(command, "router" if config.method == "m3dt-end-to-end" else "backbone")


def _training_step(
    config: Config, command: str, kind: str, stage: StageConfig, compiled: bool
) -> float:
    """Return the seconds of a training's step (rules 2, 5 and 6)."""
    segments = stage.batch_size or config.loader.batch_size
    if config.method == "harmodt" and config.loader.sampling == "mixed":
        tasks = min(config.loader.tasks_per_batch or segments, len(tasks_of(config)))
        return tasks * step_seconds(config, kind, -(-segments // tasks), compiled)
    experts = config.moe.num_experts if kind == "experts" else 1
    ratio = CPU_RATIOS.get((config.method, command), 1.0)
    return ratio * step_seconds(config, kind, experts * segments, compiled)


def _measuring(config: Config, section: str, kind: str, steps: int) -> float:
    """Return the seconds of what a whole training measures of each task (rule 6)."""
    own, experts = config.loader.batch_size, config.moe.num_experts if kind == "experts" else 1
    periods = [
        (given["every_n_steps"], (given.get("batch_size") or own) * given.get("probes", 1))
        for given in config.callbacks.values()
        if given and str(given["class"]).endswith("ConflictCallback")
        if section in given.get("stages", (section,)) and "every_n_steps" in given
    ]
    if config.method == "harmodt":
        periods.append((config.harmodt.update_every, own))
    tasks = len(tasks_of(config))
    return sum(
        (1 + steps // period) * tasks * step_seconds(config, kind, experts * size)
        for period, size in periods
    )


def environment_steps(config: Config) -> int:
    """Return the most environment steps of one model's evaluation."""
    return config.evaluation.episodes * sum(get_task(t).horizon for t in tasks_of(config))


def evaluation_duration(config: Config, models: Sequence[str]) -> Duration | None:
    """Estimate the evaluation of models, by default of the method's own; None without a basis."""
    if not is_known(config):
        return None
    rates = sum(_per_environment_step(config, model) for model in models or ("",))
    return Duration(START, environment_steps(config) * rates)


def _per_environment_step(config: Config, model: str) -> float:
    """Return the seconds of an environment step with its share of a forward pass (rule 7)."""
    rows = config.evaluation.batch_size or 128
    shared = config.evaluation.tile if config.method == "harmodt" else rows  # a model per task
    routes = model in ("", "router") and config.method not in BASELINES
    dense = routes and config.moe.router == "token" or config.method == "m3dt-end-to-end"
    own = step_seconds(config, "router" if dense else "backbone", rows)
    if model == "oracle" or (routes and not dense):
        own *= ONE_EXPERT
    launch, slope = line("backbone")
    beyond = own - (launch + slope * rows) * slowdown("backbone")
    return 1 / ENVIRONMENT_STEPS + max(0.0, beyond) / shared
