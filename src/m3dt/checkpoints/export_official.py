"""Export a run's models as the authors' files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from m3dt.checkpoints.official_files import Weights
from m3dt.checkpoints.official_names import (
    backbone_to_official,
    below,
    causal_buffers,
    expert_to_official,
    router_to_official,
)
from m3dt.config import ModelConfig, load_config
from m3dt.runs import MAIN, check_parent
from m3dt.runs.entries import Entry
from m3dt.runs.layout import CONFIG
from m3dt.runs.registry import Registry
from m3dt.utils.errors import UserError
from m3dt.utils.files import atomic_path


def export_checkpoint(run: Path, target: Path, console: Console) -> None:
    """Write a run's models as the authors' files, with their folders and names.

    Raises:
        UserError: The run has no backbone, its models do not belong together, or the authors' code
            cannot run them.
    """
    registry = Registry(run)
    backbone = registry.get("backbone", MAIN)
    if not (run / CONFIG).is_file():
        raise UserError(f"{run}: has no {CONFIG}, which names its suite")
    suite, seed = load_config(str(run / CONFIG)).suite, backbone.seed
    model = backbone.model
    entries = registry.entries()
    experts = [entry for entry in entries if entry.kind == "expert"]
    routers = [entry for entry in entries if entry.kind == "router"]
    _check_exportable(run, model, [*experts, *routers])
    for entry in (*experts, *routers):
        check_parent(registry, entry, backbone)
    state = {**backbone_to_official(registry.tensors(backbone)), **causal_buffers(model.n_layer)}
    name = f"prompt_model_{suite}_iter_{backbone.step}_seed{seed}"
    files: dict[str, Mapping[str, object]] = {f"model_saved_backbone/{name}": state}
    for expert in experts:
        method = expert.settings["grouping"]["method"]
        folder = f"model_saved_expert/{method}_group_{len(experts)}_seed{seed}"
        name = f"expert_{expert.name}_iter_{expert.step}"
        weights = registry.tensors(expert)
        files[f"{folder}/{name}"] = {
            f"block_{i}": expert_to_official(below(f"{i}.", weights)) for i in range(model.n_layer)
        }
    for router in routers:
        count = router.settings["moe"]["num_experts"]
        folder = f"model_saved_moe/{suite}_expert{count}_seed{seed}_000000-000000"
        files[f"{folder}/moe__iter_{router.step}"] = _mixture(registry, router, experts, model)
    for path, tensors in files.items():
        with atomic_path(target / path) as temporary:
            torch.save(tensors, temporary)
        console.print(f"  {target / path}")


def _mixture(
    registry: Registry, router: Entry, experts: Sequence[Entry], model: ModelConfig
) -> dict[str, Weights]:
    weights, count = registry.tensors(router), router.settings["moe"]["num_experts"]
    if not any(".experts." in name for name in weights):
        for expert in experts:
            check_parent(registry, router, expert)
    bodies, layers = [registry.tensors(expert) for expert in experts], range(model.n_layer)
    return {f"block_{i}": _mixture_block(i, weights, bodies, count) for i in layers}


def _mixture_block(layer: int, router: Weights, experts: Sequence[Weights], count: int) -> Weights:
    own = below(f"{layer}.experts.", router)  # experts that trained with the router
    block = router_to_official(below(f"{layer}.router.", router))
    found = {f"router.{name}": tensor for name, tensor in block.items()}
    for k in range(count):
        expert = {n: t[k] for n, t in own.items()} if own else below(f"{layer}.", experts[k])
        for name, tensor in expert_to_official(expert).items():
            found[f"experts.{k}.{name}"] = tensor.clone()
    return found


def _check_exportable(run: Path, model: ModelConfig, entries: Sequence[Entry]) -> None:
    """Refuse experts and routers that the authors' code cannot run."""
    plain = replace(model, attention_width=0, mlp_width=0, task_embedding=0, class_path="")
    if plain != model:
        raise UserError(
            f"{run}: models with attention_width, mlp_width, task_embedding or class_path cannot "
            "be exported"
        )
    if not model.condition_on_return:
        raise UserError(
            f"{run}: the authors' code shows every model its returns. Train with "
            "model.condition_on_return=true to export it."
        )
    if entries and model.residual != "official":
        raise UserError(
            f"{run}: experts trained with model.residual=paper compute something else in "
            "the authors' code. Train with model.residual=official to export them."
        )
    for entry in entries:
        moe = entry.settings["moe"]
        if moe.get("expert", "ffn") != "ffn" or moe.get("top_k", 0):
            raise UserError(f"{run}: the authors' files cannot hold the kind of {entry.key}")
