"""Read the authors' files: tensors only, checked before use. Code in a file is never executed.

All functions raise UserError for a file that is damaged or does not fit the model.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3dt.checkpoints.official_names import (
    below,
    expert_from_official,
    router_from_official,
    router_to_official,
)
from m3dt.config import ModelConfig
from m3dt.config.model_settings import ACTION_DIM, STATE_DIM
from m3dt.models import PromptDT, add_mixtures
from m3dt.models.shapes_only import shapes_only
from m3dt.runs.tensors import check_tensors
from m3dt.utils.counts import counted
from m3dt.utils.errors import UserError

Weights = dict[str, Tensor]


def read_file(path: Path) -> dict[str, Any]:
    """Read a file of nested dictionaries of tensors."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # torch raises many kinds for damaged files
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "Unsupported" in line), lines[0] if lines else "")
        found = f"not a checkpoint that can be trusted and read ({reason[:200]})"
        raise UserError(f"{path}: {found}") from None
    return _dense(path, content)


def _dense(path: Path, content: Any, where: str = "it") -> dict[str, Any]:
    """Require dictionaries of dense tensors, and copy each tensor."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: {where} is a {type(content).__name__}, not named tensors")
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
                raise UserError(f"{path}: {name} is not a dense tensor")
            held = value.untyped_storage().nbytes()
            if value.numel() * value.element_size() > held:
                raise UserError(f"{path}: {name} claims more numbers than the file holds")
            found[str(name)] = value.clone(memory_format=torch.contiguous_format)
        else:
            found[str(name)] = _dense(path, value, str(name))
    return found


def sort_experts(experts: Sequence[Path]) -> list[Path]:
    """Sort expert files by the numbers in their names; shells sort 10 before 2."""
    numbers = [re.match(r"expert_(\d+)", path.name) for path in experts]
    found = [int(number[1]) for number in numbers if number]
    if not found:
        return list(experts)
    if sorted(found) != list(range(len(experts))):
        raise UserError(
            f"{experts[0].parent}: the expert files have numbers {found}; "
            f"{counted(len(experts), 'file')} must be numbered 0 to {len(experts) - 1}"
        )
    return [path for _, path in sorted(zip(found, experts, strict=True))]


def steps_in_name(path: Path) -> int:
    """Return the optimiser steps in a file's name, or 0."""
    found = re.search(r"iter_(\d+)", path.name)
    return int(found[1]) if found else 0


def model_sizes(path: Path, content: Mapping[str, Any]) -> dict[str, int]:
    """Return the model settings of a backbone from the shapes of its tensors."""
    try:
        times, width = content["embed_timestep.weight"].shape
        hidden = content["transformer.h.0.mlp.c_fc.weight"].shape[1]
        dims = content["embed_state.weight"].shape[1], content["embed_action.weight"].shape[1]
        layers = len({key.split(".")[2] for key in content if key.startswith("transformer.h.")})
    except (KeyError, AttributeError, IndexError, ValueError) as error:
        raise UserError(f"{path}: not a backbone in the authors' format ({error})") from None
    if dims != (STATE_DIM, ACTION_DIM):
        expected = (STATE_DIM, ACTION_DIM)
        raise UserError(f"{path}: made for states and actions of {dims}, not {expected}")
    mlp_width = 0 if hidden == 4 * width else hidden
    return {"n_embd": width, "n_layer": layers, "max_timesteps": times, "mlp_width": mlp_width}


def _blocks(path: Path, model: ModelConfig) -> list[Weights]:
    """Read a file with one dictionary of tensors per layer."""
    content = read_file(path)
    if set(content) != {f"block_{i}" for i in range(model.n_layer)}:
        raise UserError(f"{path}: must hold exactly block_0 to block_{model.n_layer - 1}")
    blocks = [content[f"block_{i}"] for i in range(model.n_layer)]
    for i, block in enumerate(blocks):
        if not isinstance(block, dict):
            raise UserError(f"{path}: block_{i} holds no named tensors")
    return blocks


def read_expert(path: Path, model: ModelConfig) -> Weights:
    """Return the weights of an expert as `<layer>.<name>`."""
    body = {
        f"{i}.{name}": tensor
        for i, block in enumerate(_blocks(path, model))
        for name, tensor in expert_from_official(block).items()
    }
    check_tensors(path, body, _expected(model, 1, "experts"))
    return body


def read_moe(path: Path, model: ModelConfig) -> tuple[list[Weights], Weights]:
    """Return the experts of a mixture, and its routers as `<layer>.router.<name>`."""
    blocks = _blocks(path, model)
    numbers = {name.split(".")[1] for name in blocks[0] if name.startswith("experts.")}
    if numbers != {str(k) for k in range(len(numbers))} or not numbers:
        raise UserError(f"{path}: its experts are not numbered from 0")
    experts: list[Weights] = [{} for _ in numbers]
    router: Weights = {}
    for i, block in enumerate(blocks):
        for k, expert in enumerate(experts):
            parts = expert_from_official(below(f"experts.{k}.", block))
            expert |= {f"{i}.{name}": tensor for name, tensor in parts.items()}
        parts = _router_of_block(path, i, block, numbers)
        router |= {f"{i}.router.{name}": tensor for name, tensor in parts.items()}
    for expert in experts:
        check_tensors(path, expert, _expected(model, 1, "experts"))
    check_tensors(path, router, _expected(model, len(experts), "router"))
    return experts, router


def _router_of_block(path: Path, layer: int, block: Weights, numbers: Collection[str]) -> Weights:
    """Return the router of a block, and refuse a block with other parts than experts and router."""
    try:
        router = router_from_official(below("router.", block))
    except KeyError as error:
        raise UserError(f"{path}: block_{layer} lacks router.{error.args[0]}") from None
    known = {f"router.{name}" for name in router_to_official(router)}
    for name in block:
        part, _, rest = name.partition(".")
        expert = part == "experts" and rest.partition(".")[0] in numbers
        if not expert and name not in known:
            raise UserError(f"{path}: {name} of block_{layer} has no place in this model")
    return router


def _expected(model: ModelConfig, num_experts: int, part: str) -> Weights:
    """Return empty tensors with the names and shapes of an expert, or of the routers."""
    with shapes_only():
        empty = PromptDT(model)
        add_mixtures(empty, num_experts, routed=True)
    found: Weights = {}
    for i, mixture in enumerate(empty.mixtures):
        tensors = mixture.get_submodule(part).state_dict()
        if part == "experts":
            found |= {f"{i}.{name}": tensor[0] for name, tensor in tensors.items()}
        else:
            found |= {f"{i}.{part}.{name}": tensor for name, tensor in tensors.items()}
    return found
