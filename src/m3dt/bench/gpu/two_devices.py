"""A training shared by two processes against the same on one device."""

from collections.abc import Iterator
from typing import Any

import torch

from m3dt.bench.gpu.compared_runs import NOT_MOVED, close_weights, train_apart, weights_of
from m3dt.bench.gpu.outcomes import Outcome, attempt, not_measured
from m3dt.bench.gpu.site import Site

PART = "devices"
NAME = "Prompt-DT on 2 devices = on one, to 10 %"


def check_two_devices(site: Site) -> Iterator[Outcome]:
    """Train with two processes that exchange gradients, by NCCL on GPUs, and compare weights."""
    if site.on_gpu and torch.cuda.device_count() < 2:
        yield not_measured(PART, NAME, "needs 2 CUDA devices")
    else:
        yield attempt(PART, NAME, lambda: _compare(site))


def _compare(site: Site) -> dict[str, Any]:
    settings = (
        "method=promptdt",
        f"baseline.max_steps={site.sizes.close_steps}",
        "baseline.learning_rate=1e-3",
        "baseline.warmup_steps=0",
        "compute.compile=off",
        *site.sizes.checked_model,
        "model.dropout=0.0",  # each process draws its own
    )
    ways = {
        "two": ["trainer.devices=2", "trainer.strategy=ddp"],
        "one": [],
        "start": [f"baseline.learning_rate={NOT_MOVED}"],
    }
    weights = []
    for way, more in ways.items():
        overrides = site.overrides(f"devices-{way}", *settings, *more)
        train_apart(overrides, "train")
        weights.append(weights_of(site.folder / "runs" / f"devices-{way}", "baseline"))
    return close_weights(*weights)
