"""Time per optimiser step of the three stages at the paper's size, against the plain method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from m3dt.bench.machine import alternate_seconds, in_own_process, peak_bytes
from m3dt.bench.rows import Row, make_row
from m3dt.config import ComputeConfig, FrozenStageConfig, ModelConfig
from m3dt.data import Batch, Segment
from m3dt.models import PromptDT, add_mixtures
from m3dt.stages import BackboneStage, ExpertStage, RouterStage, Stage, row_losses
from m3dt.stages.stage import plain_predictions

# The paper's size, with the prompt length of the authors' code.
PAPER = ModelConfig(prompt_length=5)
BATCH = 16
PRECISIONS = {"float32": torch.float32, "bf16-mixed": torch.bfloat16}


@dataclass(frozen=True)
class Training:
    """A training that a row times.

    Attributes:
        name: Name of the row.
        stage: 1, 2 or 3.
        num_experts: Experts of the model.
        repeats: Number of timed steps.
        precision: A key of `PRECISIONS`.
        n_embd: Width of the model.
        plain: Whether to time the plain method too.
    """

    name: str
    stage: int
    num_experts: int = 0
    repeats: int = 5
    precision: str = "float32"
    n_embd: int = PAPER.n_embd
    plain: bool = True


STAGES = (
    Training("stage1", 1, repeats=9),
    Training("stage2", 2, 1, repeats=9),
    Training("stage3", 3, 8, repeats=3),
    Training("stage3", 3, 24, repeats=3),
    Training("stage3", 3, 40, repeats=3),
)


def stage_trainings() -> list[Training]:
    """Return the trainings of all stages: float32 with the plain method, and bfloat16."""
    lower = [
        replace(t, precision="bf16-mixed", repeats=(t.repeats + 1) // 2, plain=False)
        for t in STAGES
    ]
    return [*STAGES, *lower]


def training_row(training: Training, gemm_gflops: dict[str, float]) -> Row:
    """Time a training in a process of its own."""
    return in_own_process(measure_training, training, gemm_gflops)


def measure_training(training: Training, gemm_gflops: dict[str, float]) -> Row:
    """Time a training in this process.

    Args:
        training: The training.
        gemm_gflops: The machine's peak by precision, GFLOP/s.
    """
    torch.set_num_threads(1)
    model, dtype = model_config(training), PRECISIONS[training.precision]
    stage = build_stage(training)
    batch = random_batch(BATCH, model.context_length, model.prompt_length)
    fast = training_step(stage, batch, dtype)
    plain = training_step(stage, batch, dtype, lambda: plain_predictions(stage.model, batch))
    steps, flops, memory = [fast, plain][: 1 + training.plain], [], []
    for step in steps:
        flops.append(count_flops(step))
        memory.append(peak_bytes())
    seconds = alternate_seconds(steps, training.repeats)
    config = {
        "num_experts": training.num_experts,
        "precision": training.precision,
        "n_embd": model.n_embd,
        "n_layer": model.n_layer,
        "batch_size": BATCH,
    }
    row = make_row(training.name, config, seconds[0], BATCH, memory[0])
    row["model_flops"], row["performed_flops"] = flops[-1], flops[0]
    row["utilization"] = flops[0] / seconds[0] / 1e9 / gemm_gflops[str(dtype).split(".")[1]]
    if training.plain:
        row["plain_seconds"], row["plain_peak_bytes"] = seconds[1], memory[1]
        row["ratio"] = seconds[1] / seconds[0]
    return row


def model_config(training: Training) -> ModelConfig:
    """Return the configuration of a training's model."""
    return replace(PAPER, n_embd=training.n_embd)


def build_stage(training: Training) -> Stage:
    """Return a stage with fresh weights."""
    model, config = PromptDT(model_config(training)), FrozenStageConfig()
    if training.stage == 1:
        return BackboneStage(model, config, 0)
    add_mixtures(model, training.num_experts, routed=training.stage == 3)
    if training.stage == 2:
        return ExpertStage(model, config, 0, range(training.num_experts))
    return RouterStage(model, config, 0)


def training_step(
    stage: Stage,
    batch: Batch,
    dtype: torch.dtype = torch.float32,
    predictions: Callable[[], Tensor] | None = None,
) -> Callable[[], None]:
    """Return an optimiser step of a stage: forward, backward, clip, AdamW.

    Args:
        stage: The stage.
        batch: The batch of every step.
        dtype: Precision of the matrix products.
        predictions: Predicts the actions; by default the stage does.
    """
    stage.set_compute(ComputeConfig())
    stage.train()
    for mixture in stage.model.mixtures:  # each expert has a dropout seed of its own
        mixture.experts.reseed(list(stage.expert_numbers))
    parameters = list(stage.trainable().values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            actions = predictions() if predictions else stage.predictions(batch)
            loss = row_losses(actions, batch).sum()
        loss.backward()
        stage.clip(parameters)
        optimizer.step()

    return step


def count_flops(step: Callable[[], None]) -> int:
    """Count the operations of a step's matrix products, two per multiply-add."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def random_batch(B: int, T: int, P: int) -> Batch:
    """Return B random segments of T steps with two prompts of P steps, of one task."""

    def segment(rows: int, length: int) -> Segment:
        timesteps = torch.arange(length).expand(rows, length)
        states, returns_to_go = torch.randn(rows, length, 39), torch.randn(rows, length, 1)
        actions = torch.rand(rows, length, 8)
        return Segment(states, actions, returns_to_go, timesteps, torch.ones(rows, length))

    weight = torch.full((B,), 1 / (B * T * 4))
    mask = (torch.arange(8) < 4).float().expand(B, 8)
    which, task = torch.arange(B) % 2, torch.zeros(B, dtype=torch.long)
    return Batch(segment(B, T), segment(2, P), which, mask, weight, task)
