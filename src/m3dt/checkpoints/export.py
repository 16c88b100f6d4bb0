"""A run's models as the authors' files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from m3dt.checkpoints.official_files import Weights
from m3dt.config import ModelConfig, load_config
from m3dt.models.official import (
    backbone_to_official,
    below,
    causal_buffers,
    expert_to_official,
    router_to_official,
)
from m3dt.runs import MAIN, check_parent
from m3dt.runs.layout import CONFIG
from m3dt.runs.registry import Entry, Registry
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path


def export_checkpoint(run: Path, target: Path, console: Console) -> None:
    """Write a run's models as the authors' files, in their folders and under their names.

    Raises:
        UserError: The run has no backbone, models that do not belong together, or models that the
            authors' code cannot run.
    """
    registry = Registry(run)
    backbone = registry.get("backbone", MAIN)
    if not (run / CONFIG).is_file():
        raise UserError(f"{run}: has no {CONFIG}, which names its suite")
    suite, seed = load_config(str(run / CONFIG)).suite, backbone.seed
    model = ModelConfig(**backbone.settings["model"])
    entries = registry.entries()
    experts = [e for e in entries if e.kind == "expert"]
    routers = [e for e in entries if e.kind == "router"]
    _refuse_what_is_not_theirs(run, model, [*experts, *routers])
    for entry in (*experts, *routers):
        check_parent(registry, entry, backbone)
    state = {**backbone_to_official(registry.tensors(backbone)), **causal_buffers(model.n_layer)}
    name = f"prompt_model_{suite}_iter_{backbone.step}_seed{seed}"
    files: dict[str, Any] = {f"model_saved_backbone/{name}": state}
    bodies = [registry.tensors(e) for e in experts]
    for expert, body in zip(experts, bodies, strict=True):
        method = expert.settings["grouping"]["method"]
        folder = f"model_saved_expert/{method}_group_{len(experts)}_seed{seed}"
        files[f"{folder}/expert_{expert.name}_iter_{expert.step}"] = {
            f"block_{i}": expert_to_official(below(f"{i}.", body)) for i in range(model.n_layer)
        }
    for entry in routers:
        weights, count = registry.tensors(entry), entry.settings["moe"]["num_experts"]
        if not any(".experts." in name for name in weights):
            for expert in experts:
                check_parent(registry, entry, expert)
        folder = f"model_saved_moe/{suite}_expert{count}_seed{seed}_000000-000000"
        files[f"{folder}/moe__iter_{entry.step}"] = {
            f"block_{i}": _moe_block(i, weights, bodies, count) for i in range(model.n_layer)
        }
    for path, tensors in files.items():
        with atomic_path(target / path) as temporary:
            torch.save(tensors, temporary)
        console.print(f"  {target / path}")


def _moe_block(layer: int, router: Weights, bodies: Sequence[Weights], count: int) -> Weights:
    own = below(f"{layer}.experts.", router)  # experts that trained with the router
    block = router_to_official(below(f"{layer}.router.", router))
    found = {f"router.{name}": tensor for name, tensor in block.items()}
    for j in range(count):
        expert = {n: t[j] for n, t in own.items()} if own else below(f"{layer}.", bodies[j])
        for name, tensor in expert_to_official(expert).items():
            found[f"experts.{j}.{name}"] = tensor.clone()
    return found


def _refuse_what_is_not_theirs(run: Path, model: ModelConfig, mixed: Sequence[Entry]) -> None:
    plain = replace(model, attention_width=0, mlp_width=0, task_embedding=0)
    if plain != model:
        raise UserError(f"{run}: a model of another shape than theirs cannot be exported")
    if mixed and model.residual != "official":
        raise UserError(
            f"{run}: experts trained with model.residual=paper compute something else in "
            "the authors' code. Train with model.residual=official to export them."
        )
    for entry in mixed:
        moe = entry.settings["moe"]
        if moe.get("expert", "ffn") != "ffn" or moe.get("top_k", 0):
            raise UserError(f"{run}: {entry.key} is of a kind that their files cannot hold")
