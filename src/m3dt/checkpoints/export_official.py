"""Export a run's models as the authors' files."""

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
    """Write a run's models as the authors' files, with their folders and names.

    Args:
        run: The run's folder.
        target: The folder to write to.
        console: Where the files are listed.

    Raises:
        UserError: The run has no backbone, its models do not belong together, or the authors' code
            cannot run them.
    """
    registry = Registry(run)
    backbone = registry.get("backbone", MAIN)
    if not (run / CONFIG).is_file():
        raise UserError(f"{run}: has no {CONFIG}, which names its suite")
    export = _Export(registry, backbone, load_config(str(run / CONFIG)).suite)
    _check_exportable(run, export.model, [*export.experts, *export.routers])
    for entry in (*export.experts, *export.routers):
        check_parent(registry, entry, backbone)
    for path, tensors in export.files().items():
        with atomic_path(target / path) as temporary:
            torch.save(tensors, temporary)
        console.print(f"  {target / path}")


class _Export:
    """The models of a run by the names of the authors' files.

    Args:
        registry: The run's registry.
        backbone: The run's backbone.
        suite: The run's suite.
    """

    def __init__(self, registry: Registry, backbone: Entry, suite: str) -> None:
        self.registry, self.backbone, self.suite = registry, backbone, suite
        self.model = ModelConfig(**backbone.settings["model"])
        entries = registry.entries()
        self.experts = [entry for entry in entries if entry.kind == "expert"]
        self.routers = [entry for entry in entries if entry.kind == "router"]

    def files(self) -> dict[str, Any]:
        """Return the content of each file by its path."""
        experts = [self.registry.tensors(entry) for entry in self.experts]
        contents = [self._backbone(), *map(self._expert, self.experts, experts)]
        contents += [self._mixture(router, experts) for router in self.routers]
        return dict(contents)

    def _backbone(self) -> tuple[str, dict[str, Any]]:
        entry = self.backbone
        weights = backbone_to_official(self.registry.tensors(entry))
        name = f"prompt_model_{self.suite}_iter_{entry.step}_seed{entry.seed}"
        buffers = causal_buffers(self.model.n_layer)
        return f"model_saved_backbone/{name}", {**weights, **buffers}

    def _expert(self, entry: Entry, weights: Weights) -> tuple[str, dict[str, Any]]:
        method, seed = entry.settings["grouping"]["method"], self.backbone.seed
        folder = f"model_saved_expert/{method}_group_{len(self.experts)}_seed{seed}"
        layers = range(self.model.n_layer)
        blocks = {f"block_{i}": expert_to_official(below(f"{i}.", weights)) for i in layers}
        return f"{folder}/expert_{entry.name}_iter_{entry.step}", blocks

    def _mixture(self, entry: Entry, experts: Sequence[Weights]) -> tuple[str, dict[str, Any]]:
        router, count = self.registry.tensors(entry), entry.settings["moe"]["num_experts"]
        if not any(".experts." in name for name in router):
            for expert in self.experts:
                check_parent(self.registry, entry, expert)
        seed = self.backbone.seed
        folder = f"model_saved_moe/{self.suite}_expert{count}_seed{seed}_000000-000000"
        layers = range(self.model.n_layer)
        blocks = {f"block_{i}": _mixture_block(i, router, experts, count) for i in layers}
        return f"{folder}/moe__iter_{entry.step}", blocks


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
    if replace(model, attention_width=0, mlp_width=0, task_embedding=0) != model:
        raise UserError(
            f"{run}: models with attention_width, mlp_width or task_embedding cannot be exported"
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
