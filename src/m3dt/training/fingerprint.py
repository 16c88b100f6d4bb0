"""What a model's weights depend on, setting by setting, and how two such records differ."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from m3dt.config import Config, weight_settings
from m3dt.runs import inference_device
from m3dt.tasks import TASKS, TaskSpec, get_task
from m3dt.utils.errors import shortened

_PRECISION_NAMES = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


def fingerprint_settings(config: Config, tasks: Sequence[str], *sections: str) -> dict[str, Any]:
    """Return the settings that weights depend on: seed, tasks, model, batches, named sections.

    Keys that the schema marks as unable to change a bit of the weights are left out.

    Args:
        config: The experiment.
        tasks: Names of its tasks, in order.
        sections: Of the configuration, whole (`stage1`) or one key (`moe.num_experts`).
    """
    chosen: dict[str, Any] = {
        "seed": config.seed,
        "tasks": list(tasks),
        "model": weight_settings(config.model),
        "loader": weight_settings(config.loader),
    }
    own = [get_task(task) for task in tasks if task not in TASKS]
    if own:  # weights depend on widths and on the return scale
        chosen["own_tasks"] = {spec.name: _recorded(spec) for spec in own}
    for section in sections:
        name, _, only = section.partition(".")
        found = weight_settings(getattr(config, name))
        chosen.setdefault(name, {}).update({only: found[only]} if only else found)
    return chosen


def _recorded(spec: TaskSpec) -> list[Any]:
    scale = None if math.isnan(spec.return_scale) else spec.return_scale
    return [[spec.state_dim, spec.action_dim, spec.horizon], scale]


def device_settings(config: Config) -> dict[str, Any]:
    """Return how results are computed, which an exact resume must repeat."""
    trainer = config.trainer
    return {
        "devices": _num_devices(trainer.get("devices", 1)),
        "accelerator": inference_device(config),
        "num_nodes": trainer.get("num_nodes"),
        "precision": precision(config),
        **_threads(config),
    }


def _threads(config: Config) -> dict[str, int]:
    """Return the threads of a product, by the variable that sets them.

    The last bits of a CPU's products depend on them. Lightning shares the CPUs among several ranks.
    """
    if inference_device(config) != "cpu" or _num_devices(config.trainer.get("devices", 1)) != 1:
        return {}
    return {"OMP_NUM_THREADS": torch.get_num_threads()}


def precision(config: Config) -> str:
    """Return the precision of training by the name that Lightning prefers."""
    given = str(config.trainer.get("precision") or "32-true")
    return _PRECISION_NAMES.get(given, given)


def _num_devices(asked: Any) -> int | str:
    """Count the devices that are asked for; return what is no number as it is."""
    if isinstance(asked, list | tuple):
        return len(asked)
    if str(asked) in ("auto", "-1"):
        return torch.cuda.device_count() or 1
    return int(asked) if str(asked).isdigit() else str(asked)


def differences(found: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> str:
    """Return `key was X, is Y` for every setting that differs."""
    parts = []
    for key in dict.fromkeys((*found, *asked)):
        old, new = found.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            below = differences(old, new, f"{prefix}{key}.")
            parts += [below] if below else []
        elif old != new:
            parts.append(f"{prefix}{key} was {shortened(old)}, is {shortened(new)}")
    return ", ".join(parts)


def changed_settings(found: dict[str, Any], asked: dict[str, Any]) -> str:
    """Return how a model's recorded settings differ from those asked for.

    A record that is older than some settings had their defaults.
    """
    defaults = asdict(Config())
    filled = dict(found)
    for section, keys in asked.items():
        known, recorded = defaults.get(section), found.get(section)
        if isinstance(keys, dict) and isinstance(known, dict) and isinstance(recorded, dict):
            filled[section] = {**{k: known[k] for k in keys if k in known}, **recorded}
    return differences(filled, asked)
