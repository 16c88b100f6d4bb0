"""Reading the authors' files: tensors alone, each checked before anything is made of it.

Nothing that a file asks to execute is executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3dt.config import ModelConfig
from m3dt.config.schema import ACTION_DIM, STATE_DIM
from m3dt.models import PromptDT, add_mixtures
from m3dt.models.official import (
    below,
    expert_from_official,
    router_from_official,
    router_to_official,
)
from m3dt.utils.errors import UserError

Weights = dict[str, Tensor]


def read_file(path: Path) -> dict[str, Any]:
    """Read a file of tensors in dictionaries."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # torch has a whole family of its own for damaged files
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "Unsupported" in line), lines[0] if lines else "")
        raise UserError(
            f"{path}: not a checkpoint that can be trusted and read ({reason[:200]})"
        ) from None
    return _plain(path, content)


def _plain(path: Path, content: Any, where: str = "it") -> dict[str, Any]:
    """Require dictionaries of dense tensors, and give each tensor memory of its own."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: {where} is a {type(content).__name__}, not named tensors")
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
                raise UserError(f"{path}: {name} is not a plain tensor")
            held = value.untyped_storage().nbytes()
            if value.numel() * value.element_size() > held:
                raise UserError(f"{path}: {name} claims more numbers than the file holds")
            found[str(name)] = value.clone(memory_format=torch.contiguous_format)
        else:
            found[str(name)] = _plain(path, value, str(name))
    return found


def in_order(experts: Sequence[Path]) -> list[Path]:
    """Order expert files by their numbers, if all have one; shells sort 10 before 2."""
    numbers = [re.match(r"expert_(\d+)", path.name) for path in experts]
    found = [int(number[1]) for number in numbers if number]
    if not found:
        return list(experts)
    if sorted(found) != list(range(len(experts))):
        raise UserError(
            f"{experts[0].parent}: the expert files have numbers {found}; {len(experts)} files "
            f"must be numbered 0 to {len(experts) - 1}"
        )
    return [path for _, path in sorted(zip(found, experts, strict=True))]


def step_of(path: Path) -> int:
    """Return the optimiser steps that a file's name tells, or 0."""
    found = re.search(r"iter_(\d+)", path.name)
    return int(found[1]) if found else 0


def sizes(path: Path, content: Mapping[str, Any]) -> dict[str, int]:
    """Read a backbone's sizes from the shapes of its tensors."""
    try:
        times, width = content["embed_timestep.weight"].shape
        hidden = content["transformer.h.0.mlp.c_fc.weight"].shape[1]
        dims = content["embed_state.weight"].shape[1], content["embed_action.weight"].shape[1]
        layers = len({key.split(".")[2] for key in content if key.startswith("transformer.h.")})
    except (KeyError, AttributeError, IndexError, ValueError) as error:
        raise UserError(f"{path}: not a backbone of the authors' form ({error})") from None
    if dims != (STATE_DIM, ACTION_DIM):
        ours = (STATE_DIM, ACTION_DIM)
        raise UserError(f"{path}: made for states and actions of {dims}, not {ours}")
    return {
        "n_embd": width,
        "n_layer": layers,
        "max_timesteps": times,
        "mlp_width": 0 if hidden == 4 * width else hidden,
    }


def _blocks(path: Path, content: Mapping[str, Any], model: ModelConfig) -> list[Weights]:
    if set(content) != {f"block_{i}" for i in range(model.n_layer)}:
        raise UserError(f"{path}: does not hold block_0 to block_{model.n_layer - 1} alone")
    blocks = [content[f"block_{i}"] for i in range(model.n_layer)]
    for i, block in enumerate(blocks):
        if not isinstance(block, dict):
            raise UserError(f"{path}: block_{i} holds no named tensors")
    return blocks


def read_expert(path: Path, model: ModelConfig) -> Weights:
    """Read an expert, as `<layer>.<name>`."""
    blocks = _blocks(path, read_file(path), model)
    body = {
        f"{i}.{name}": tensor
        for i, block in enumerate(blocks)
        for name, tensor in expert_from_official(block).items()
    }
    check(path, body, _expected(model, 1, "experts"))
    return body


def read_moe(path: Path, model: ModelConfig) -> tuple[list[Weights], Weights]:
    """Return the experts, and the routers as `<layer>.router.*`."""
    blocks = _blocks(path, read_file(path), model)
    numbers = {name.split(".")[1] for name in blocks[0] if name.startswith("experts.")}
    if numbers != {str(j) for j in range(len(numbers))} or not numbers:
        raise UserError(f"{path}: its experts are not numbered from 0")
    bodies: list[Weights] = [{} for _ in numbers]
    router: Weights = {}
    for i, block in enumerate(blocks):
        for j, body in enumerate(bodies):
            parts = expert_from_official(below(f"experts.{j}.", block))
            body |= {f"{i}.{name}": tensor for name, tensor in parts.items()}
        try:
            own = router_from_official(below("router.", block))
        except KeyError as error:
            raise UserError(f"{path}: block_{i} lacks router.{error.args[0]}") from None
        for name in block:
            part, _, rest = name.partition(".")
            known = part == "experts" and rest.partition(".")[0] in numbers
            if not known and name not in {f"router.{n}" for n in router_to_official(own)}:
                raise UserError(f"{path}: {name} of block_{i} has no place in this model")
        router |= {f"{i}.router.{name}": tensor for name, tensor in own.items()}
    for body in bodies:
        check(path, body, _expected(model, 1, "experts"))
    check(path, router, _expected(model, len(bodies), "router"))
    return bodies, router


def _expected(model: ModelConfig, num_experts: int, part: str) -> Weights:
    """Return tensors of the names and shapes that an expert, or the routers, must have."""
    with torch.device("meta"):
        empty = PromptDT(model)
        add_mixtures(empty, num_experts, routed=True)
    found: Weights = {}
    for i, mixture in enumerate(empty.mixtures):
        if part == "experts":
            found |= {f"{i}.{n}": t[0] for n, t in mixture.experts.state_dict().items()}
        else:
            names = mixture.get_submodule(part).state_dict()
            found |= {f"{i}.{part}.{n}": t for n, t in names.items()}
    return found


def check(path: Path, found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other names, shapes or kinds, or that are not finite."""
    for name in (*expected, *found):
        if name not in found:
            raise UserError(f"{path}: lacks {name}")
        tensor = found[name]
        if name not in expected or not isinstance(tensor, Tensor):
            raise UserError(f"{path}: {name} has no place in this model")
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            raise UserError(f"{path}: {name} has shape {shapes}")
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise UserError(f"{path}: {name} does not hold finite numbers")
