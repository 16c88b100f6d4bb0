"""An agent of two tasks that no training made, and outcomes of episodes."""

import torch

from m3dt.config import LoaderConfig, ModelConfig
from m3dt.data import DatasetStore, TaskContext
from m3dt.evaluation import Episode
from m3dt.evaluation.agent import Agent
from m3dt.models import PromptDT, add_mixtures
from m3dt.runs.entries import Entry
from m3dt.tasks import get_task

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context_length=4, prompt_length=3)
TASKS = ("reach-v2", "push-v2")
SETTINGS = {"grouping": {"method": "random"}, "moe": {"num_experts": 2}}


def make_agent(folder):
    """Return an agent whose tasks are those of a dataset."""
    torch.manual_seed(0)
    model = PromptDT(MODEL)
    add_mixtures(model, 2, routed=True)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    context = TaskContext.from_store(DatasetStore.open(folder, TASKS), LoaderConfig(), MODEL)
    entry = Entry("router", "main", SETTINGS, {}, "", 0, 0, {}, [])
    return Agent(model.eval(), entry, context, "runs/test")


def outcome(task, *numbers):
    return Episode.of(get_task(task), *numbers)
