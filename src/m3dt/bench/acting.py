"""Choosing actions: tiles of episodes with encoded prompts, beside one environment at a time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from m3dt.bench.machine import alternate_seconds, median_seconds, peak_bytes
from m3dt.bench.steps import PAPER, count_flops, random_batch
from m3dt.config import ComputeConfig
from m3dt.models import PromptDT, add_mixtures, fast
from m3dt.stages.stage import plain_predictions
from m3dt.utils.processes import process_pool

TILE = 10


def acting_rows(gemm_gflops: float) -> list[dict[str, Any]]:
    """Time an action with a full context: backbone, and 40 experts."""
    return [in_own_process(act, experts, TILE, gemm_gflops, True) for experts in (0, 40)]


def in_own_process(function: Any, *arguments: Any) -> dict[str, Any]:
    """Call a function in a fresh process, whose peak of memory is then its own."""
    with process_pool(1) as pool:
        return pool.submit(function, *arguments).result()


@torch.inference_mode()
def act(
    num_experts: int, environments: int, gemm_gflops: float, beside_plain: bool
) -> dict[str, Any]:
    """Time one action in each of several environments, CPU seconds of one thread an action.

    Args:
        num_experts: Of the model; 0 is the backbone alone.
        environments: Episodes in step, R.
        gemm_gflops: Peak of float32 products.
        beside_plain: Whether to time the plain computation too, one environment at a time with the
            prompt in every sequence.
    """
    torch.set_num_threads(1)
    R, T, P = environments, PAPER.context_length, PAPER.prompt_length
    model = PromptDT(PAPER)
    if num_experts:
        add_mixtures(model, num_experts, routed=True)
    model.eval()
    batch, single = random_batch(R, T, P), random_batch(1, T, P)
    compute = ComputeConfig()
    prompt = fast.encode_prompt(model, batch.row_prompts(), None, compute)

    def together() -> None:
        fast.act(model, batch.segment, prompt, compute)

    def alone() -> None:
        plain_predictions(model, single)

    flops, memory = count_flops(together), peak_bytes()
    row: dict[str, Any] = {
        "name": "acting",
        "config": {**asdict(PAPER), "num_experts": num_experts, "environments": R},
        "model_flops": count_flops(alone) * R,
        "performed_flops": flops,
        "peak_bytes": memory,
        "note": "",
    }
    if beside_plain:
        seconds, plain = alternate_seconds((together, alone), 7)
        row |= {"plain_seconds": plain, "ratio": plain * R / seconds}
    else:
        seconds = median_seconds(together, 3, warmup=1)
    return {
        **row,
        "median_seconds": seconds / R,
        "samples_per_second": R / seconds,
        "utilization": flops / seconds / 1e9 / gemm_gflops,
    }
