"""Time per optimiser step and per action at the paper's size, against the plain method."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from m3dt.bench.devices import PRECISIONS, Meter
from m3dt.bench.measuring import Row, alternate_seconds, make_row, median_seconds
from m3dt.config import ComputeConfig, FrozenStageConfig, ModelConfig
from m3dt.data import Batch, Segment
from m3dt.data.format import NUM_PROMPTS
from m3dt.evaluation.costs import count_flops
from m3dt.models import PromptDT, add_mixtures, fast
from m3dt.models.routing import select
from m3dt.stages import BackboneStage, ExpertStage, RouterStage, Stage, row_losses
from m3dt.stages.stage import plain_predictions

# The paper's size, with the prompt length of the authors' code.
PAPER = ModelConfig(prompt_length=5)
BATCH = 16


@dataclass(frozen=True)
class Training:
    """A training of stage 1, 2 or 3 that a row times.

    `repeats` counts the timed steps, `precision` is a key of `PRECISIONS`, and `plain` says whether
    to time the plain method too.
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
    *(Training("stage3", 3, num_experts, repeats=3) for num_experts in (8, 24, 40)),
)


def stage_trainings() -> list[Training]:
    """Return the trainings of all stages: float32 with the plain method, and bfloat16."""
    lower = [
        replace(t, precision="bf16-mixed", repeats=(t.repeats + 1) // 2, plain=False)
        for t in STAGES
    ]
    return [*STAGES, *lower]


def measure_training(training: Training, gemm_gflops: dict[str, float], device: str = "cpu") -> Row:
    """Time a training in this process; `gemm_gflops` is the device's peak by precision."""
    torch.set_num_threads(1)
    dtype, meter = PRECISIONS[training.precision], Meter(device)
    model = replace(PAPER, n_embd=training.n_embd)
    stage = build_stage(training.stage, training.num_experts, model).to(device)
    batch = random_batch(BATCH, device=device)
    steps, flops, memory = [training_step(stage, batch, dtype)], [], []
    if training.plain:
        plain = partial(plain_predictions, stage.model, batch)
        steps.append(training_step(stage, batch, dtype, plain))
    for step in steps:
        meter.reset()
        flops.append(count_flops(step))
        memory.append(meter.peak_bytes())
    seconds = alternate_seconds(steps, training.repeats, meter.now)
    config = {
        "num_experts": training.num_experts,
        "precision": training.precision,
        "n_embd": training.n_embd,
        "n_layer": PAPER.n_layer,
        "batch_size": BATCH,
        "device": device,
    }
    row = make_row(training.name, config, seconds[0], BATCH, memory[0])
    row["model_flops"], row["performed_flops"] = flops[-1], flops[0]
    row["utilization"] = flops[0] / seconds[0] / 1e9 / gemm_gflops[str(dtype).split(".")[1]]
    if training.plain:
        row["plain_seconds"], row["plain_peak_bytes"] = seconds[1], memory[1]
        row["ratio"] = seconds[1] / seconds[0]
    return row


def build_stage(number: int, num_experts: int, sizes: ModelConfig) -> Stage:
    """Return stage 1, 2 or 3 with fresh weights."""
    model, config = PromptDT(sizes), FrozenStageConfig()
    if number == 1:
        return BackboneStage(model, config, 0)
    add_mixtures(model, num_experts, routed=number == 3)
    if number == 2:
        return ExpertStage(model, config, 0, range(num_experts))
    return RouterStage(model, config, 0)


def training_step(
    stage: Stage,
    batch: Batch,
    dtype: torch.dtype = torch.float32,
    predictions: Callable[[], Tensor] | None = None,
) -> Callable[[], None]:
    """Return an optimiser step of a stage on a batch: forward, backward, clip, AdamW.

    `dtype` is the precision of the matrix products; `predictions` replaces those of the stage.
    """
    stage.set_compute(ComputeConfig())
    stage.train()
    parameters, device = list(stage.trainable().values()), batch.loss_weight.device.type
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        stage.begin_step(batch)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            losses = row_losses(predictions(), batch) if predictions else stage.step_losses(batch)
            loss = losses.sum()
        loss.backward()
        stage.clip(parameters)
        optimizer.step()
        stage.end_step()

    return step


def act(
    num_experts: int,
    episodes: int,
    gemm_gflops: float,
    compare: bool,
    device: str = "cpu",
    chosen: int = 0,
) -> Row:
    """Time one action in each of several episodes; on a CPU, on one thread.

    The episodes act together, with encoded prompts and a full context. `gemm_gflops` is the
    device's peak in float32. With `compare`, the plain method is timed too, which takes one
    episode at a time and has the prompt in every sequence. Without experts, the backbone acts. With
    `chosen`, so many experts were chosen for each episode; else routers weigh all at each token.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, compute, meter = PromptDT(PAPER), ComputeConfig(), Meter(device)
    selection = None
    if num_experts:
        add_mixtures(model, num_experts, routed=True)
        gates = torch.rand(episodes, PAPER.n_layer, num_experts, device=device).softmax(dim=-1)
        selection = select(gates, str(chosen)) if chosen else None
    model.eval().to(device)
    batch, single = random_batch(episodes, device=device), random_batch(1, device=device)
    with torch.inference_mode():
        prompt = fast.encode_prompt(model, batch.row_prompts(), None, compute, selection)
        together = partial(fast.act, model, batch.segment, prompt, compute)
        alone = partial(plain_predictions, model, single)
        flops, memory = count_flops(together), meter.peak_bytes()
        plain_flops = count_flops(alone) * episodes
        if compare:
            seconds, plain_seconds = alternate_seconds((together, alone), 7, meter.now)
        else:
            seconds = median_seconds(together, 3, 1, meter.now)
    config = {
        **asdict(PAPER),
        "num_experts": num_experts,
        "chosen": chosen,
        "environments": episodes,
        "device": device,
    }
    row = make_row("acting", config, seconds / episodes, 1, memory)
    row["model_flops"], row["performed_flops"] = plain_flops, flops
    row["utilization"] = flops / seconds / 1e9 / gemm_gflops
    if compare:
        row["plain_seconds"] = plain_seconds
        row["ratio"] = plain_seconds / row["median_seconds"]
    return row


def random_batch(
    B: int,
    T: int = PAPER.context_length,
    P: int = PAPER.prompt_length,
    device: str = "cpu",
    num_tasks: int = 1,
) -> Batch:
    """Return B random segments of T steps, equally many of each task, and prompts of P steps.

    B is a multiple of the number of tasks. A task has two prompts.
    """

    def segment(rows: int, length: int) -> Segment:
        timesteps = torch.arange(length).expand(rows, length)
        states, returns_to_go = torch.randn(rows, length, 39), torch.randn(rows, length, 1)
        actions = torch.rand(rows, length, 8)
        return Segment(states, actions, returns_to_go, timesteps, torch.ones(rows, length))

    weight = torch.full((B,), 1 / (B * T * 4))
    mask = (torch.arange(8) < 4).float().expand(B, 8)
    task, prompts = torch.arange(num_tasks), NUM_PROMPTS * num_tasks
    of_row, of_prompt = (task.repeat_interleave(n // num_tasks) for n in (B, prompts))
    which = of_row * NUM_PROMPTS + torch.arange(B) % NUM_PROMPTS
    batch = Batch(segment(B, T), segment(prompts, P), which, mask, weight, of_row, of_prompt)
    return tree_map(lambda tensor: tensor.to(device), batch)
