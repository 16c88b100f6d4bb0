"""Optimiser steps on random batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from m3dt.bench.machine import median_seconds, peak_bytes
from m3dt.config import ModelConfig, StageConfig
from m3dt.data import Batch, Segment
from m3dt.models import PromptDT
from m3dt.stages import BackboneStage, Stage

# The paper's size, with the prompt length of the authors' code.
PAPER = ModelConfig(prompt_length=5)


def training_step(stage: Stage, batch: Batch) -> Callable[[], None]:
    """Return an optimiser step of a stage: forward, backward, clip, AdamW."""
    stage.train()
    for mixture in stage.model.mixtures:  # each expert drops units by its own seed
        mixture.experts.reseed(list(stage.expert_numbers()))
    parameters = list(stage.trainable().values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        stage.loss(batch).backward()
        stage.clip(parameters)
        optimizer.step()

    return step


def stage1_row(gemm_gflops: float) -> dict[str, Any]:
    """Time an optimiser step of stage 1 at the paper's size."""
    B, T, P = 16, PAPER.context_length, PAPER.prompt_length
    stage = BackboneStage(PromptDT(PAPER), StageConfig(), 0)
    seconds = median_seconds(training_step(stage, random_batch(B, T, P)), 15)
    flops = _training_flops(PAPER, B * 3 * (T + P))
    return {
        "name": "stage1",
        "config": {"n_embd": PAPER.n_embd, "n_layer": PAPER.n_layer, "batch_size": B},
        "median_seconds": seconds,
        "samples_per_second": B / seconds,
        "model_flops": flops,
        "utilization": flops / seconds / 1e9 / gemm_gflops,
        "peak_bytes": peak_bytes(),
        "note": "CPU seconds a step; width 256, 6 layers, batch 16, K 20, prompt 5",
    }


def _training_flops(model: ModelConfig, tokens: int) -> float:
    """Count the matrix products with weights of a forward and backward pass over all tokens."""
    weights = model.n_layer * 12 * model.n_embd**2
    return 6.0 * weights * tokens


def random_batch(B: int, T: int, P: int) -> Batch:
    """Return a batch of random segments of T steps with prompts of P, of one task."""

    def segment(length: int) -> Segment:
        steps = torch.arange(length).expand(B, length)
        shapes = (torch.randn(B, length, 39), torch.rand(B, length, 8), torch.randn(B, length, 1))
        return Segment(*shapes, steps, torch.ones(B, length))

    weight = torch.full((B,), 1 / (B * T * 4))
    mask = (torch.arange(8) < 4).float().expand(B, 8)
    return Batch(segment(T), segment(P), mask, weight, torch.zeros(B, dtype=torch.long))
