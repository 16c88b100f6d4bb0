"""Gradients of tasks: no step waits for the device, and none needs an earlier result."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from trainings import TRAININGS, training

from m3dt.callbacks import ExpertConflictCallback, GradientConflictCallback
from m3dt.config import ComputeConfig, GroupingConfig
from m3dt.stages import gradients
from m3dt.stages.gradients import gradient_memory, probe_gradients
from m3dt.stages.grouping import agreement_gram

META = torch.device("meta")  # it has shapes but no values: reading one raises
ALONE = SimpleNamespace(global_rank=0, world_size=1)


def measured(name, synthetic):
    """Take every measurement that goes with a training."""
    stage, data = training(name, synthetic, resident="on")
    stage.set_compute(ComputeConfig())
    data.place(stage.device, 0)
    if name == "stage 2":
        record = ExpertConflictCallback().record(ALONE, stage, data)
        return [value for table in record.values() for value in table.values()]
    if name == "HarmoDT":
        stage.revise(data, 1, 40)
        return stage.masks.packed.tolist()
    tables = GradientConflictCallback(probes=2)._measure(ALONE, stage, data)
    return [
        *(table.dots.tolist() for table in tables),
        agreement_gram(stage, data, GroupingConfig()).tolist(),
    ]


@pytest.mark.parametrize("name", ["stage 1", "stage 2", "HarmoDT"])
def test_results_may_be_overwritten(synthetic, monkeypatch, name):
    """A recorded graph reads and writes the same tensors in every call."""

    def graphed(function, enabled):
        kept = {}

        def replay(*args):
            given, form = tree_flatten(args)
            if not kept:
                kept["inputs"] = [x.clone() for x in given]
                kept["result"] = function(*tree_unflatten(kept["inputs"], form)).clone()
            for own, new in zip(kept["inputs"], given, strict=True):
                assert own.shape == new.shape
                own.copy_(new)
            kept["result"].copy_(function(*tree_unflatten(kept["inputs"], form)))
            return kept["result"]

        return replay

    expected = measured(name, synthetic)
    monkeypatch.setattr(gradients, "graphed", graphed)
    assert measured(name, synthetic) == expected


def on_meta(name, synthetic):
    stage, data = training(name, synthetic, resident="on")
    stage.set_compute(ComputeConfig())
    stage.to(META)
    data.place(META, 0)
    return stage, data


@pytest.mark.parametrize("name", TRAININGS)
def test_a_gradient_reads_nothing_back(synthetic, name):
    stage, data = on_meta(name, synthetic)
    tasks = [0] * len(data.streams)
    with probe_gradients(stage, data) as gradient:
        found = gradient(tasks, 0)
    assert found.shape == (sum(p.numel() for p in stage.trainable().values()),)
    assert found.device == META
    assert all(p.grad is None for p in stage.parameters())
    assert stage.training and any(m.training for m in stage.trained_modules)


def test_what_the_loss_does_not_reach_has_no_gradient(synthetic):
    stage, data = training("stage 3, top-k", synthetic)
    with probe_gradients(stage, data) as gradient:
        found = gradient([1], 0)
    stage.eval()
    stage.loss(data.probe_batch(1)).backward()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in stage.trainable().values()]
    assert any(p.grad is None for p in stage.trainable().values())
    torch.testing.assert_close(found, torch.cat([part.flatten() for part in parts]))


def test_a_record_reads_the_device_once(synthetic, monkeypatch):
    reads = []
    monkeypatch.setattr(Tensor, "cpu", lambda t: reads.append(t) or torch.ones(t.shape))
    conflict, experts = GradientConflictCallback(probes=3), ExpertConflictCallback()
    conflict._measure(ALONE, *on_meta("stage 1", synthetic))
    assert len(reads) == 3  # once per probe
    experts.record(ALONE, *on_meta("stage 2", synthetic))
    assert len(reads) == 3 + 2  # grouped, and all tasks
    config = GroupingConfig(gradient_clip=0.25, memory_gb=1)
    gram = agreement_gram(*on_meta("stage 1", synthetic), config)
    assert len(reads) == 6 and np.array_equal(gram, np.ones((3, 3)))


def test_memory_counts_all_that_the_dataset_leaves(synthetic, monkeypatch):
    stage, data = training("stage 1", synthetic)
    monkeypatch.setattr(gradients, "available_memory", lambda: 8000)
    assert gradient_memory(torch.device("cpu"), data) == 2000
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    assert gradient_memory(torch.device("cpu"), data) == 500
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 10**9))
    assert gradient_memory(torch.device("cuda"), data) == 5 * 10**8
    stage, data = on_meta("stage 1", synthetic)
    held = sum(t.nbytes for t in vars(data._resident).values() if isinstance(t, Tensor))
    rest = 10**9 - 2 * gradient_memory(torch.device("cuda"), data)
    assert rest == pytest.approx(held, rel=0.02)  # tables per task are small
