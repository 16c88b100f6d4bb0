"""Every training at a tiny size, and a trainer that fits one."""

from dataclasses import replace

import lightning.pytorch as pl
import torch
from conftest import SYNTHETIC_TASKS
from lightning.pytorch.loggers.logger import DummyLogger
from test_stages import FAST, MODEL, data_for, fresh_model

from m3dt.config import HarmoConfig, MoEConfig
from m3dt.config.model_settings import STATE_DIM
from m3dt.data import TaskContext, TaskStream
from m3dt.models import add_mixtures, make_model
from m3dt.models.routing import PromptRouter
from m3dt.stages import (
    BackboneStage,
    BaselineStage,
    ExpertStage,
    HarmoStage,
    PromptRouterStage,
    RouterStage,
)

GROUPS = [TaskStream(0, (0, 2)), TaskStream(1, (1,))]
SLOW = replace(FAST, max_steps=12, warmup_steps=4)
TOP = MoEConfig(2, top_k=1)
BIG = MoEConfig(2, expert="trunk")
HARMO = HarmoConfig(sparsity=0.3, update_every=4, max_changed=50)


def with_experts(routed, moe=None):
    model = fresh_model()
    add_mixtures(model, 2, routed, moe)
    return model


def mtdt():
    torch.manual_seed(1)
    return make_model(replace(MODEL, task_embedding=5), 3)


def by_prompts():
    torch.manual_seed(2)
    model = fresh_model()
    model.prompt_router = PromptRouter(MODEL, 2, hidden=8)
    tasks = len(SYNTHETIC_TASKS)
    context = replace(
        TaskContext.empty(),
        state_mean=torch.randn(tasks, STATE_DIM),
        state_std=1 + torch.rand(tasks, STATE_DIM),
    )
    return PromptRouterStage(model, SLOW, 0, context, [0, 1, 0])


# Every training: its stage, the number that keys its batches, and whether experts share batches.
TRAININGS = {
    "stage 1": (lambda: BackboneStage(fresh_model(), SLOW, 0), 1, False),
    "stage 2": (lambda: ExpertStage(with_experts(False), SLOW, 0, [0, 1]), 2, True),
    "stage 3": (lambda: RouterStage(with_experts(True), SLOW, 0), 3, False),
    "stage 3, top-k": (
        lambda: RouterStage(with_experts(True, TOP), SLOW, 0),
        3,
        0,
    ),
    "stage 3, experts too": (lambda: RouterStage(with_experts(True), SLOW, 0, True), 3, False),
    "big experts": (lambda: ExpertStage(with_experts(False, BIG), SLOW, 0, [0, 1]), 2, True),
    "big experts, router": (lambda: RouterStage(with_experts(True, BIG), SLOW, 0), 3, False),
    "Prompt-DT": (lambda: BaselineStage(fresh_model(), SLOW, 0), 0, False),
    "MTDT": (lambda: BaselineStage(mtdt(), SLOW, 0), 0, False),
    "HarmoDT": (lambda: HarmoStage(fresh_model(), SLOW, 0, HARMO, 3), 0, False),
    "HarmoDT, mixed": (lambda: HarmoStage(fresh_model(), SLOW, 0, HARMO, 3), 0, False),
    "by prompts": (lambda: by_prompts(), 4, False),
    "end to end": (lambda: BaselineStage(with_experts(True), SLOW, 0), 0, False),
}


def training(name, synthetic, sampling="one_task", **loader):
    """Return the stage and the data of a training."""
    make, number, experts = TRAININGS[name]
    streams = GROUPS if experts else None
    ends = number == PromptRouterStage.number
    return make(), data_for(synthetic, number, streams, ends=ends, sampling=sampling, **loader)


class Notes(DummyLogger):
    """Keeps what is logged: (step, values)."""

    def __init__(self):
        super().__init__()
        self.found = []

    def log_metrics(self, metrics, step=None):
        self.found.append((step, dict(metrics)))


def fit(stage, data, callbacks=(), steps=12, **arguments):
    trainer = pl.Trainer(
        **{
            "max_steps": steps, "max_epochs": -1, "logger": False, "callbacks": list(callbacks),
            "enable_checkpointing": False, "enable_progress_bar": False, "log_every_n_steps": 2,
            "enable_model_summary": False, "use_distributed_sampler": False, "accelerator": "cpu",
            **arguments,
        }
    )  # fmt: skip
    trainer.fit(stage, datamodule=data)
    return trainer
