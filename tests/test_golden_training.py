"""Gradients, grouping and optimiser steps against those recorded from the authors' classes."""

import json
from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from golden import DATA, load_inputs, official_model, prompt_of, segment_of
from sklearn.cluster import KMeans
from torch.utils.data import DataLoader

from m3dt.checkpoints.official_names import (
    backbone_to_official,
    expert_to_official,
    router_to_official,
)
from m3dt.config import FrozenStageConfig, GroupingConfig, StageConfig
from m3dt.data import Batch, Chunk, Draws
from m3dt.stages import BackboneStage, ExpertStage, RouterStage
from m3dt.stages.grouping import agreement_gram, clip_factors, gradient_groups, mean_gradients

INPUTS = load_inputs("gradient_inputs.npz")
GRADIENTS = load_inputs("gradient_outputs.npz")
STEPS = load_inputs("train_steps.npz")
ORDER = json.loads((DATA / "gradient_param_order.json").read_text())["named_parameters_order"]
ORDER = [name for name, _ in ORDER]
OFFICIAL = GroupingConfig(num_batches=3, gradient_clip=0.25)
OPTIMISER = FrozenStageConfig(
    max_steps=12, learning_rate=1e-3, weight_decay=1e-2, warmup_steps=5, gradient_clip=0.25
)


def batch_of(task, number):
    """Return a recorded batch; its loss is the mean over real steps and real action dimensions."""
    arrays = {
        k.removeprefix(f"t{task}b{number}/"): v
        for k, v in INPUTS.items()
        if k.startswith(f"t{task}b{number}/")
    }
    segment = segment_of(arrays)
    action_mask = torch.zeros(len(segment.states), 8)
    action_mask[:, : INPUTS["action_dims"][task]] = 1
    real = segment.attention_mask.sum() * INPUTS["action_dims"][task]
    weight = torch.full((len(segment.states),), 1 / float(real))
    index = torch.full((len(segment.states),), task)
    prompts, rows = prompt_of(arrays), torch.arange(len(segment.states))
    return Batch(segment, prompts, rows, action_mask, weight, index, index)


class Recorded:
    """Stands for the DataModule: its probe batches are the recorded ones."""

    class store:
        tasks = range(4)

    resident_bytes = 0

    def probe_draws(self, tasks, index, batch_size):
        (task,) = tasks
        return Draws(torch.tensor([task]), torch.tensor([index]), None, None, None)

    def to_device(self, draws):
        return draws

    def gather(self, draws):
        return batch_of(int(draws.task), int(draws.begin))


@pytest.fixture(scope="module")
def stage():
    return BackboneStage(official_model("backbone"), StageConfig(), 0)


def in_their_order(stage, flat):
    """Lay out a gradient over our trainable parameters as the recorded vectors are."""
    sizes = [p.numel() for p in stage.trainable().values()]
    parts = zip(stage.trainable().items(), flat.split(sizes), strict=True)
    named = backbone_to_official({n: g.view(p.shape) for (n, p), g in parts})
    everything = backbone_to_official(stage.model.state_dict())
    return torch.cat([named.get(n, torch.zeros_like(everything[n])).flatten() for n in ORDER])


def test_task_gradients_and_agreement(stage):
    data = Recorded()
    norms = 0.25 / clip_factors(stage, data, OFFICIAL).numpy()
    clipped = GRADIENTS["grad_norm_before_clip"] > 0.25
    expected = GRADIENTS["grad_norm_before_clip"][clipped]
    np.testing.assert_allclose(norms[clipped], expected, rtol=1e-4)
    gradients = mean_gradients(stage, data, OFFICIAL, list(stage.trainable().values()))
    ours = torch.stack([in_their_order(stage, gradient) for gradient in gradients])
    np.testing.assert_allclose(ours, GRADIENTS["task_grad"], rtol=1e-4, atol=1e-7)
    agreement = (ours * ours.mean(dim=0))[:, GRADIENTS["nonzero_mask"].astype(bool)]
    for name, part in (("first2000", slice(2000)), ("last2000", slice(-2000, None))):
        expected = GRADIENTS[f"agreement_{name}"]
        np.testing.assert_allclose(agreement[:, part], expected, rtol=1e-3, atol=1e-9)
    cosines = torch.cosine_similarity(ours, ours.mean(dim=0, keepdim=True))
    np.testing.assert_allclose(cosines, GRADIENTS["cosine_to_mean"], rtol=1e-4)


@pytest.mark.parametrize("memory_gb", [0, 1e-6])
def test_agreement_gram_and_groups(stage, memory_gb):
    gram = agreement_gram(stage, Recorded(), replace(OFFICIAL, memory_gb=memory_gb))
    np.testing.assert_allclose(gram, GRADIENTS["agreement_gram"], rtol=1e-3)
    labels = GRADIENTS["km_agree_labels"]
    expected = sorted(np.flatnonzero(labels == g).tolist() for g in range(2))
    assert sorted(gradient_groups(gram, 2, 40, 0)) == expected


def test_kmeans_runs_as_recorded():
    X = GRADIENTS["km_X"].astype(np.float64)
    run = KMeans(3, init=X[GRADIENTS["km_init"]], n_init=1).fit(X)
    np.testing.assert_array_equal(run.labels_, GRADIENTS["km_labels"])
    best = GRADIENTS["km40_labels"]
    expected = sorted(np.flatnonzero(best == g).tolist() for g in range(3))
    assert sorted(gradient_groups(X @ X.T, 3, 40, 0)) == expected


class RecordedSteps(pl.LightningDataModule):
    """Stands for the DataModule: its batches are the recorded ones, a step per chunk."""

    def largest_chunk(self, ahead):
        return 1

    gather = None  # batches are ready
    validates = False

    def __init__(self, batches):
        super().__init__()
        self.chunks = [Chunk(step, None, [batch]) for step, batch in enumerate(batches)]

    def train_dataloader(self):
        return DataLoader(self.chunks, batch_size=None)


class Recorder(pl.Callback):
    def __init__(self):
        self.losses, self.norms = [], []

    def on_train_batch_end(self, trainer, stage, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        self.norms.append(float(trainer.callback_metrics["train/gradient_norm"]))


def stage_of(number):
    if number == 1:
        return BackboneStage(official_model("backbone"), OPTIMISER, 0)
    model = official_model("expert0" if number == 2 else "moe")
    if number == 3:
        return RouterStage(model, OPTIMISER, 0)
    kept = {n: t.clone() for n, t in model.state_dict().items()}
    stage = ExpertStage(model, OPTIMISER, 0, [0])
    model.load_state_dict(
        kept
    )  # a stage begins with fresh experts, the recording with trained ones
    return stage


def in_their_names(stage, number):
    """Return the weights after training under the names they were recorded with."""
    if number == 1:
        return backbone_to_official(stage.model.state_dict())
    named = {}
    for i, mixture in enumerate(stage.model.mixtures):
        block = f"pretrained_pdt.transformer.h.{i}."
        if number == 2:
            weights = expert_to_official(mixture.experts.weights_of(0))
            named |= {f"{block}expert.{n}": t for n, t in weights.items()}
        else:
            weights = router_to_official(mixture.router.state_dict())
            named |= {f"{block}moe.router.{n}": t for n, t in weights.items()}
    return named


@pytest.mark.parametrize("number", [1, 2, 3])
def test_twelve_steps(number):
    stage = stage_of(number)
    batches = [batch_of(i % 4, i // 4) for i in range(12)]
    recorder = Recorder()
    trainer = pl.Trainer(
        max_steps=12, max_epochs=1, logger=False, callbacks=[recorder], accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(stage, datamodule=RecordedSteps(batches))
    key = f"stage{number}"
    np.testing.assert_allclose(recorder.losses, STEPS[f"{key}/losses"], rtol=1e-4)
    np.testing.assert_allclose(recorder.norms, STEPS[f"{key}/grad_norm_before_clip"], rtol=1e-4)
    weights = in_their_names(stage, number)
    for i, name in enumerate(STEPS[f"{key}/param_names"]):
        tensor = weights[name].double()
        norm, total = STEPS[f"{key}/param_l2"][i], STEPS[f"{key}/param_sum"][i]
        assert float(tensor.norm()) == pytest.approx(norm, rel=1e-3), name
        assert float(tensor.sum()) == pytest.approx(total, rel=1e-3, abs=1e-3 * norm), name
    inputs = load_inputs("inputs.npz")
    real = inputs["attention_mask"].astype(bool)
    stage.model.eval()
    with torch.no_grad():
        predictions = stage.model(segment_of(inputs), prompt_of(inputs)).numpy()
    expected = STEPS[f"{key}/final_action_preds"]
    np.testing.assert_allclose(predictions[real], expected[real], rtol=0, atol=1e-4)
