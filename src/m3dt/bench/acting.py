"""Time per action: episodes acting together with encoded prompts, against the plain method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch

from m3dt.bench.machine import alternate_seconds, in_own_process, median_seconds, peak_bytes
from m3dt.bench.rows import Row, make_row
from m3dt.bench.steps import PAPER, count_flops, random_batch
from m3dt.config import ComputeConfig
from m3dt.models import PromptDT, add_mixtures, fast
from m3dt.stages.stage import plain_predictions

EPISODES = 10


def acting_rows(gemm_gflops: float) -> list[Row]:
    """Time an action with a full context, of the backbone and of 40 experts."""
    return [in_own_process(act, experts, EPISODES, gemm_gflops, True) for experts in (0, 40)]


def act(num_experts: int, episodes: int, gemm_gflops: float, compare: bool) -> Row:
    """Time one action in each of several episodes, in CPU seconds per action on one thread.

    Args:
        num_experts: Experts of the model; 0 is the backbone alone.
        episodes: Episodes that act together.
        gemm_gflops: The machine's peak in float32, GFLOP/s.
        compare: Whether to time the plain method too, which takes one episode at a time and has the
            prompt in every sequence.
    """
    torch.set_num_threads(1)
    model = PromptDT(PAPER)
    if num_experts:
        add_mixtures(model, num_experts, routed=True)
    with torch.inference_mode():
        return _time_actions(model.eval(), num_experts, episodes, gemm_gflops, compare)


def _time_actions(
    model: PromptDT, num_experts: int, episodes: int, gemm_gflops: float, compare: bool
) -> Row:
    together, alone = _actions_together(model, episodes), _plain_action(model)
    flops, memory = count_flops(together), peak_bytes()
    plain_flops = count_flops(alone) * episodes
    if compare:
        seconds, plain_seconds = alternate_seconds((together, alone), 7)
    else:
        seconds = median_seconds(together, 3, warmup=1)
    config = {**asdict(PAPER), "num_experts": num_experts, "environments": episodes}
    row = make_row("acting", config, seconds / episodes, 1, memory)
    row["model_flops"], row["performed_flops"] = plain_flops, flops
    row["utilization"] = flops / seconds / 1e9 / gemm_gflops
    if compare:
        row["plain_seconds"] = plain_seconds
        row["ratio"] = plain_seconds / row["median_seconds"]
    return row


def _actions_together(model: PromptDT, episodes: int) -> Callable[[], None]:
    batch = random_batch(episodes, PAPER.context_length, PAPER.prompt_length)
    compute = ComputeConfig()
    prompt = fast.encode_prompt(model, batch.row_prompts(), None, compute)

    def act_together() -> None:
        fast.act(model, batch.segment, prompt, compute)

    return act_together


def _plain_action(model: PromptDT) -> Callable[[], None]:
    batch = random_batch(1, PAPER.context_length, PAPER.prompt_length)

    def act_alone() -> None:
        plain_predictions(model, batch)

    return act_alone
