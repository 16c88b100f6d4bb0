"""Checks that fast ways of training give what slow ones give."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from m3dt.bench.gpu.compared_runs import (
    NOT_MOVED,
    close_weights,
    copy_run,
    same_weights,
    train_here,
    train_through_a_kill,
    weights_of,
)
from m3dt.bench.gpu.outcomes import NEEDS_GPU, Differs, Outcome, attempt, not_measured
from m3dt.bench.gpu.site import Site
from m3dt.data import DatasetStore, ExpertStreams, M3DTDataModule, TaskStream

PART = "equality"
PRECISIONS = ("bf16-mixed", "32-true")
_TASKS, _EXPERTS, _BATCHES = 8, 4, 20


@dataclass(frozen=True)
class Checked:
    """A training whose ways are compared.

    `section` is that of its settings, `before` are the commands that it builds on, and `kind` is
    that of its models. `more` are further settings.
    """

    command: str
    section: str
    kind: str
    before: tuple[str, ...] = ()
    method: str = "m3dt-gradient"
    more: tuple[str, ...] = ()


CHECKED = {
    "stage 1": Checked("stage1", "stage1", "backbone"),
    "stage 2": Checked("stage2", "stage2", "expert", ("stage1", "group")),
    "stage 3": Checked("stage3", "stage3", "router", ("stage1", "stage2")),
    "Prompt-DT": Checked("train", "baseline", "baseline", method="promptdt"),
    "MTDT": Checked("train", "baseline", "baseline", method="mtdt"),
    "HarmoDT": Checked("train", "baseline", "baseline", method="harmodt"),
    "HarmoDT mixed": Checked(
        "train", "baseline", "baseline", method="harmodt", more=("loader.sampling=mixed",)
    ),
}


_STREAMS = (("one_task", False), ("mixed", False), ("one_task", True), ("mixed", True))
BATCHES = tuple(
    f"batches on the device, {sampling.replace('_', ' ')}{', experts' if experts else ''}"
    for sampling, experts in _STREAMS
)
COMPANY = "an expert alone = among others, to 10 %"


def check_batches(site: Site) -> Iterator[Outcome]:
    """Compare batches gathered on the device with those read from files."""
    for name, (sampling, experts) in zip(BATCHES, _STREAMS, strict=True):
        yield attempt(PART, name, partial(_batches, site, sampling, experts))


def _batches(site: Site, sampling: str, experts: bool) -> dict[str, Any]:
    tasks = tuple(range(_TASKS))
    streams: TaskStream | ExpertStreams = TaskStream(0, tasks)
    if experts:
        groups = (TaskStream(k, tasks[k::_EXPERTS]) for k in range(_EXPERTS))
        streams = ExpertStreams(tuple(groups))
    config = site.config("batches", f"loader.sampling={sampling}", "loader.resident=on")
    store = DatasetStore.open(config.data, site.some_tasks(_TASKS))
    data = M3DTDataModule(store, config.loader, config.model, 0, 1, streams)
    data.place(torch.device(site.device), 0)
    different = 0
    for step in range(_BATCHES):
        gathered, _ = tree_flatten(data.gather(data.to_device(data.draws(step))))
        read, _ = tree_flatten(data.batch(step))
        pairs = zip(gathered, read, strict=True)
        different += not all(torch.equal(a.cpu(), b) for a, b in pairs)
    measured = {"batches": _BATCHES, "different": different}
    if different:
        raise Differs(measured)
    return measured


def names_of_ways(name: str, precision: str) -> tuple[str, ...]:
    """Return what `check_ways` checks: the first one trains the reference."""
    ways = ["graph", "chunks", "chunks of 50"]
    ways += ["kill and resume"] if precision == PRECISIONS[0] else []
    title = f"{name}, {precision}"
    return (f"{title}: plain steps", *(f"{title}: {way} = plain steps" for way in ways))


def name_of_compiled(name: str) -> str:
    """Return what `check_compiled` checks."""
    return f"{name}: compiled = not compiled, to 10 %"


def check_ways(site: Site, name: str, precision: str) -> Iterator[Outcome]:
    """Compare ways of a training with plain steps one by one, to the bit.

    They are: graphs, chunks of steps, and a kill followed by a resume. All use deterministic
    algorithms, so this runs in a process of its own.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    checked, (plain_name, *names) = CHECKED[name], names_of_ways(name, precision)
    folder = f"{name}-{precision}".replace(" ", "").lower()
    graph = "compute.graph=" + ("on" if site.on_gpu else "off")
    steps = site.sizes.checked_steps
    settings = _settings(site, checked, steps, precision, "model.dropout=0.1")
    plain = ["compute.graph=off", "compute.steps_per_call=1", "loader.resident=off"]
    start = Path(site.config(folder).run)
    ways: dict[str, list[str]] = {
        "graph": [graph, "compute.steps_per_call=1", "loader.resident=on"],
        "chunks": [graph, "compute.steps_per_call=0", "loader.resident=on"],
        "chunks of 50": [graph, "compute.steps_per_call=50", "loader.resident=on"],
    }

    def trained(way: str, more: list[str]) -> Path:
        copy_run(start, f"{folder}-{way}")
        return train_here(site.overrides(f"{folder}-{way}", *settings, *more), checked.command)

    def prepare() -> dict[str, Any]:
        train_here(site.overrides(folder, *settings, *plain), *checked.before)
        reference.update(weights_of(trained("plain", plain), checked.kind))
        return {"tensors": len(reference)}

    def same(run: Callable[[], Path]) -> dict[str, Any]:
        return {"steps": steps, **same_weights(weights_of(run(), checked.kind), reference)}

    reference: dict[str, torch.Tensor] = {}

    def killed() -> Path:
        copy_run(start, f"{folder}-killed")
        overrides = site.overrides(f"{folder}-killed", *settings, *ways["chunks"])
        return train_through_a_kill(overrides, checked.command, steps * 5 // 8)

    yield attempt(PART, plain_name, prepare)
    runs: list[Callable[[], Path]] = [partial(trained, way, more) for way, more in ways.items()]
    for label, run in zip(names, [*runs, killed], strict=False):
        if label == names[0] and not site.on_gpu:
            yield not_measured(PART, label, NEEDS_GPU)
        else:
            yield attempt(PART, label, partial(same, run))


def check_company(site: Site) -> Iterator[Outcome]:
    """Compare an expert that trains alone with the same among others, to 10 % of the way."""
    checked = CHECKED["stage 2"]
    settings = _settings(site, checked, site.sizes.close_steps, "32-true")

    def run() -> dict[str, Any]:
        start = train_here(site.overrides("company", *settings), *checked.before)
        alone = [f"stage2.shard=1/{_EXPERTS}"]
        ways = {"alone": alone, "together": [], "start": [*alone, _not_moved(checked)]}
        return close_weights(*_weights(site, start, ways, settings, checked, "1"))

    yield attempt(PART, COMPANY, run)


def check_compiled(site: Site, name: str) -> Iterator[Outcome]:
    """Compare a training with compiled operations with one without.

    Weights may differ by 10 % of the way that they went. There is no dropout, since compiled
    operations draw other random numbers.
    """
    checked, title = CHECKED[name], name_of_compiled(name)
    settings = _settings(site, checked, site.sizes.close_steps, "32-true", "model.dropout=0.0")

    def run() -> dict[str, Any]:
        folder = f"compiled-{checked.section}"
        start = train_here(site.overrides(folder, *settings), *checked.before)
        ways = {"on": ["compute.compile=on"], "off": [], "start": [_not_moved(checked)]}
        return close_weights(*_weights(site, start, ways, settings, checked))

    yield attempt(PART, title, run) if site.on_gpu else not_measured(PART, title, NEEDS_GPU)


def _not_moved(checked: Checked) -> str:
    return f"{checked.section}.learning_rate={NOT_MOVED}"


def _weights(
    site: Site,
    start: Path,
    ways: dict[str, list[str]],
    settings: Sequence[str],
    checked: Checked,
    name: str = "",
) -> Iterator[dict[str, torch.Tensor]]:
    """Train a copy of a run in each of several ways; yield the weights of its models."""
    for way, more in ways.items():
        copy_run(start, f"{start.name}-{way}")
        overrides = site.overrides(f"{start.name}-{way}", *settings, *more)
        yield weights_of(train_here(overrides, checked.command), checked.kind, name)


def _settings(
    site: Site, checked: Checked, steps: int, precision: str, *more: str
) -> tuple[str, ...]:
    """Return the settings of a training of so many steps; those that it builds on take 2."""
    lengths = {section: 2 for section in ("stage1", "stage2", "stage3", "baseline")}
    lengths[checked.section] = steps
    every = max(1, steps // 4)
    return (
        f"tasks=[{','.join(site.some_tasks(_TASKS))}]",
        f"method={checked.method}",
        f"trainer.precision={precision}",
        "trainer.deterministic=true",
        f"moe.num_experts={_EXPERTS}",
        "grouping.method=random",
        "compute.compile=off",
        f"harmodt.update_every={every}",
        *(f"{section}.max_steps={number}" for section, number in lengths.items()),
        f"{checked.section}.checkpoint_every={every}",
        f"{checked.section}.learning_rate=1e-3",
        f"{checked.section}.warmup_steps=0",
        *site.sizes.checked_model,
        *checked.more,
        *more,
    )
