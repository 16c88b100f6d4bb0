"""Agents of all kinds with random weights, and trajectories of a task that is in no catalogue."""

from dataclasses import replace

import torch
from conftest import SYNTHETIC_TASKS

import m3dt
from m3dt.config import LoaderConfig, ModelConfig, MoEConfig
from m3dt.data import DatasetStore, TaskContext
from m3dt.models import add_mixtures, make_model
from m3dt.models.routing import PromptRouter
from m3dt.models.variants.task_masks import TaskMasks
from m3dt.runs.entries import Entry
from m3dt.tasks import Trajectory

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context_length=4, prompt_length=3)
METHODS = ("backbone", "expert", "token", "prompt", "mtdt", "harmodt", "bc", "official")


def perturbed(model):
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def make_agent(synthetic, method):
    """Return an agent of a method with random weights, which knows the three synthetic tasks."""
    torch.manual_seed(0)
    tasks, config = list(SYNTHETIC_TASKS), MODEL
    if method == "mtdt":
        config = replace(MODEL, task_embedding=5)
    if method == "bc":
        config = replace(MODEL, condition_on_return=False)
    model = make_model(config, len(tasks))
    if method in ("expert", "token", "prompt"):
        add_mixtures(model, 1 if method == "expert" else 2, routed=method == "token")
    if method == "prompt":
        model.prompt_router = PromptRouter(MODEL, 2, 8)
    perturbed(model).eval()
    context = TaskContext.from_store(DatasetStore.open(synthetic, tasks), LoaderConfig(), config)
    kind, name = "baseline", method
    if method in ("token", "prompt"):
        kind, name = "router", "main"
    moe = vars(MoEConfig(2, router="prompt" if method == "prompt" else "token"))
    entry = Entry(kind, name, {"moe": moe}, {}, "", 0, 0, {}, tasks)
    masks = TaskMasks.draw(model, len(tasks), 0.5, 0) if method == "harmodt" else None
    history = "all_dims" if method == "official" else "real_dims"
    return m3dt.Agent(model, entry, context, "", masks, history)


def trajectories(rng, lengths=(30, 2), widths=(11, 3)):
    """Trajectories of a task that is in no catalogue."""
    return [
        Trajectory(
            3 + rng.normal(size=(T, widths[0])),
            rng.uniform(-1, 1, (T, widths[1])),
            rng.uniform(0, 2, T),
        )
        for T in lengths
    ]
