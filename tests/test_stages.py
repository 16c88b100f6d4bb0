"""What the stages train, freeze and keep apart."""

from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from conftest import SYNTHETIC_TASKS
from lightning.pytorch.plugins import MixedPrecision

from m3dt.config import (
    ComputeConfig,
    FrozenStageConfig,
    GroupingConfig,
    LoaderConfig,
    ModelConfig,
    StageConfig,
)
from m3dt.data import DatasetStore, ExpertStreams, M3DTDataModule, TaskStream
from m3dt.models import PromptDT, add_mixtures
from m3dt.stages import BackboneStage, ExpertStage, RouterStage, row_losses
from m3dt.stages.grouping import agreement_gram, gradient_groups, random_groups
from m3dt.stages.learning_rate import learning_rate_factor
from m3dt.training.run import Run
from m3dt.utils.console import make_console
from m3dt.utils.errors import RunError

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context_length=6, prompt_length=3, dropout=0.1)
FAST = FrozenStageConfig(max_steps=5, learning_rate=1e-2, warmup_steps=2)


def data_for(synthetic, stage, streams=None, ends=False, **loader):
    store = DatasetStore.open(synthetic, SYNTHETIC_TASKS)
    loader = LoaderConfig(**{"batch_size": 6, **loader})
    streams = ExpertStreams(tuple(streams)) if streams else TaskStream(0, (0, 1, 2))
    return M3DTDataModule(store, loader, MODEL, 0, stage, streams, ends)


def train(stage, data, steps=5, callbacks=(), **arguments):
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, logger=False, callbacks=list(callbacks),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, accelerator="cpu", **arguments,
    )  # fmt: skip
    trainer.fit(stage, datamodule=data)
    return trainer


def fresh_model(num_experts=0, routed=False, dtype=torch.float32):
    torch.manual_seed(1)
    model = PromptDT(MODEL)
    if num_experts:
        add_mixtures(model, num_experts, routed)
    return model.to(dtype)


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("sampling", ["one_task", "mixed"])
def test_loss_equals_a_loop_over_entries(synthetic, sampling):
    batch = data_for(synthetic, 1, sampling=sampling).batch(1)
    predictions = torch.randn(6, 6, 8)
    means = []
    for task in batch.task_index.unique():
        errors = [
            (predictions[b, t, a] - batch.segment.actions[b, t, a]).item() ** 2
            for b in range(6)
            for t in range(6)
            for a in range(8)
            if batch.task_index[b] == task
            and batch.segment.attention_mask[b, t] == 1
            and batch.action_mask[b, a] == 1
        ]
        means.append(np.mean(errors))
    assert row_losses(predictions, batch).sum().item() == pytest.approx(np.mean(means), rel=1e-5)


def test_padded_steps_and_dims_do_not_reach_the_loss(synthetic):
    data = data_for(synthetic, 1)
    batch = next(b for b in map(data.batch, range(20)) if b.segment.attention_mask.min() == 0)
    predictions = torch.randn(6, 6, 8, requires_grad=True)
    row_losses(predictions, batch).sum().backward()
    real = batch.segment.attention_mask[..., None] * batch.action_mask[:, None]
    assert (predictions.grad[real == 0] == 0).all()
    assert (predictions.grad[real == 1] != 0).all()


def test_backbone_stage_trains_all_but_what_has_no_loss(synthetic):
    model = fresh_model()
    before = copy_of(model)
    train(BackboneStage(model, FAST, 0), data_for(synthetic, 1))
    same = {
        name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])
    }
    assert {name.split(".")[0] for name in same if not name.startswith("transformer")} == {
        "predict_state",
        "predict_return",
    }
    assert {name for name in same if name.startswith("transformer")} == {"transformer.wte.weight"}


@pytest.mark.parametrize("stage_number", [2, 3])
def test_frozen_weights_are_bit_identical(synthetic, stage_number):
    model = fresh_model(2, routed=stage_number == 3)
    if stage_number == 2:
        streams = [TaskStream(0, (0, 1)), TaskStream(1, (2,))]
        stage, data = ExpertStage(model, FAST, 0, [0, 1]), data_for(synthetic, 2, streams)
        trained = "experts"
    else:
        stage, data = RouterStage(model, FAST, 0), data_for(synthetic, 3)
        trained = "router"
    before = copy_of(model)
    train(stage, data)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (f".{trained}." not in name), name


def test_frozen_parts_have_no_dropout(synthetic):
    model = fresh_model(2, routed=True)
    stage = RouterStage(model, FAST, 0)
    batch = data_for(synthetic, 3).batch(0)
    assert stage.training and model.mixtures[0].router.training
    assert torch.equal(stage.predictions(batch), stage.predictions(batch))


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
def test_an_expert_alone_equals_one_among_others(synthetic, one_thread, precision):
    """Same weights, dropout, data, clipping and Adam state, whichever other experts train.

    In float32 to the bit. In float64 products round by their size, but any other dependence shows.
    """
    groups = {3: (0, 2), 5: (1,), 8: (0, 1, 2)}

    def weights_of(numbers):
        model = fresh_model(len(numbers))
        stage = ExpertStage(model, FAST, 0, numbers)
        data = data_for(synthetic, 2, [TaskStream(k, groups[k]) for k in numbers])
        train(stage, data, precision=precision)
        return stage.expert_weights()[5]

    alone, among = weights_of([5]), weights_of([3, 5, 8])
    tolerance = 1e-12 if precision == "64-true" else 0
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor, among[name], rtol=0, atol=tolerance)


def test_each_experts_gradient_is_clipped_by_its_own_norm():
    stage = ExpertStage(fresh_model(3), FAST, 0, [0, 1, 2])
    parameters = list(stage.trainable().values())
    scales = torch.tensor([1e-3, 1.0, 100.0])
    for p in parameters:
        p.grad = torch.randn_like(p) * scales.view(-1, *[1] * (p.ndim - 1))
    before = [p.grad.clone() for p in parameters]
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in before]).norm(dim=0)
    mean = stage.clip(parameters)
    torch.testing.assert_close(mean, norms.mean())
    for e in range(3):
        factor = min(1.0, 0.25 / norms[e].item())
        for p, g in zip(parameters, before, strict=True):
            torch.testing.assert_close(p.grad[e], g[e] * factor, rtol=1e-4, atol=1e-7)


def test_learning_rate():
    config = StageConfig(max_steps=100, warmup_steps=10)
    factors = [learning_rate_factor(config, s) for s in (0, 4, 9, 50)]
    assert factors == pytest.approx([0.1, 0.5, 1, 1])
    config = StageConfig(max_steps=110, warmup_steps=10, decay="cosine")
    factors = [learning_rate_factor(config, s) for s in (4, 10, 60, 110)]
    assert factors == pytest.approx([0.5, 1, 0.5, 0])
    config = StageConfig(max_steps=120, warmup_steps=10, decay="cooldown", cooldown_share=0.2)
    factors = [learning_rate_factor(config, s) for s in (4, 10, 100, 110, 119, 120)]
    assert factors == pytest.approx([0.5, 1, 1, 0.5, 0.05, 0])
    factors = [learning_rate_factor(config, s, 50) for s in (49, 50, 55, 60, 70)]
    assert factors == pytest.approx([1, 1, 0.5, 0, 0])


def test_bfloat16_trains(synthetic):
    model = fresh_model()
    before = copy_of(model)
    train(BackboneStage(model, FAST, 0), data_for(synthetic, 1), precision="bf16-mixed")
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert not torch.equal(before["predict_action.weight"], model.predict_action.weight)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_float16_stops_where_steps_stay_bad(synthetic, kind):
    """The scaler skips overflows now and then; what it skips for good is no overflow."""
    stage = BackboneStage(fresh_model(), replace(FAST, max_steps=99, max_bad_steps=2), 0)
    stage.set_compute(ComputeConfig(steps_per_call=1))
    losses, taken = stage.row_losses, []

    def bad(batch):
        taken.append(0)
        # The root of 0 is finite, its gradient is not.
        more = (0 * next(iter(stage.trainable().values())).sum()).sqrt()
        return losses(batch) * float("nan") if kind == "loss" else losses(batch) + more

    stage.row_losses = bad
    with pytest.raises(RunError, match="not finite"):
        # Lightning itself would take bfloat16 in its place on a CPU.
        half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
        train(stage, data_for(synthetic, 1), steps=99, plugins=[half])
    assert len(taken) == (3 if kind == "loss" else 23)


def test_random_groups():
    groups = random_groups(11, 4, seed=0)
    assert sorted(len(g) for g in groups) == [2, 3, 3, 3]
    assert sorted(i for g in groups for i in g) == list(range(11))
    assert groups == random_groups(11, 4, seed=0) != random_groups(11, 4, seed=1)


def test_gradient_groups_find_planted_ones():
    """Three directions with different scales; K-means on the vectors and on the Gram agree."""
    rng = np.random.default_rng(0)
    planted = np.repeat(np.arange(3), 4)
    vectors = np.eye(3, 50)[planted] * 5 + rng.normal(size=(12, 50)) * 0.1
    groups = gradient_groups(vectors @ vectors.T, 3, restarts=10, seed=0)
    assert {tuple(g) for g in groups} == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)}


@pytest.mark.parametrize("gradient_clip", [0.0, 0.25])
@pytest.mark.parametrize("memory_gb", [0, 1e-4, 1e-6])
@pytest.mark.parametrize("resident", ["off", "on"])
def test_agreement_gram_equals_naive(synthetic, memory_gb, gradient_clip, resident):
    """In one block, in some, and in one per tensor, it is that of g_i * mean(g)."""
    stage, data = BackboneStage(fresh_model(), FAST, 0), data_for(synthetic, 1, resident=resident)
    data.place(stage.device, 0)
    config = GroupingConfig(num_batches=2, gradient_clip=gradient_clip, memory_gb=memory_gb)
    gram = agreement_gram(stage, data, config)
    assert all(p.grad is None for p in stage.parameters())
    stage.eval()
    gradients, clipped = [], 0
    for task in range(3):
        means = []
        for index in range(2):
            stage.zero_grad()
            stage.loss(data.probe_batch(task, index)).backward()
            whole = torch.cat([p.grad.flatten() for p in stage.trainable().values()])
            factor = min(1.0, gradient_clip / float(whole.norm())) if gradient_clip else 1.0
            means.append(factor * whole)
            clipped += factor < 1
        gradients.append(sum(means) / 2)
    assert bool(clipped) == (gradient_clip > 0)
    gradients = torch.stack(gradients).double()
    agreement = gradients * gradients.mean(dim=0)
    np.testing.assert_allclose(gram, (agreement @ agreement.T).numpy(), rtol=1e-4)


def test_a_stage_may_have_its_own_batch_size(synthetic, tiny_config):
    """Zero takes the loader's; what a stage learns from depends on it, so it is a setting."""
    folders = [f"data={synthetic}", f"tasks=[{','.join(SYNTHETIC_TASKS)}]"]
    sizes = ("loader.batch_size=6", "stage2.batch_size=3", "stage3.batch_size=0")
    run = Run(tiny_config(*folders, *sizes), make_console())
    names = ("baseline", "stage1", "stage2", "stage3")
    sizes = [len(run.batches(stage).batch(0).loss_weight) for stage in names]
    assert sizes == [6, 6, 3, 6]
    assert run.settings("stage2")["stage2"]["batch_size"] == 3
