"""HarmoDT: masks that keep their density, protect what they leave out, and follow the gradients."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from quick_run import QUICK, kill_after
from started import ended
from test_stages import FAST, copy_of, data_for, fresh_model, train

import m3dt
from m3dt.cli import main
from m3dt.config import HarmoConfig
from m3dt.models.variants.task_masks import TaskMasks, erk_densities, exchange, is_exempt, maskable
from m3dt.runs.registry import Registry
from m3dt.stages import HarmoStage, harmodt

HARMO = HarmoConfig(sparsity=0.3, update_every=2, max_changed=20)
BATCHES = pytest.mark.parametrize(
    "sampling", ["mixed", pytest.param("one_task", marks=pytest.mark.slow)]
)


def stage_of(harmo=HARMO):
    return HarmoStage(fresh_model(), FAST, 0, harmo, num_tasks=3)


def attribute(model, name):
    """Return what stands where a parameter was."""
    module, _, own = name.rpartition(".")
    return getattr(model.get_submodule(module), own)


def test_masks_cover_what_trains_and_have_their_density():
    stage = stage_of()
    assert list(maskable(stage.model)) == list(stage.trainable())
    kept = [stage.masks.flat(task).float().mean().item() for task in range(3)]
    assert kept == pytest.approx([0.7] * 3, abs=0.01)
    assert not torch.equal(stage.masks.flat(0), stage.masks.flat(1))
    for name, mask in stage.masks.of(0).items():
        assert mask.shape == stage.trainable()[name].shape
        assert mask.ndim > 1 or mask.all()


def test_erk_densities():
    shapes = {n: torch.Size(s) for n, s in {"a": (64, 64), "b": (64, 256), "bias": (64,)}.items()}
    densities = erk_densities(shapes, 0.8)
    total = sum(densities[n] * s.numel() for n, s in shapes.items())
    assert total == pytest.approx(0.8 * sum(s.numel() for s in shapes.values()))
    assert densities["bias"] == 1
    raw = (64 + 64) / (64 * 64), (64 + 256) / (64 * 256)
    assert densities["a"] == 1 or densities["a"] / densities["b"] == pytest.approx(raw[0] / raw[1])
    thin = erk_densities({**shapes, "c": torch.Size((2, 3))}, 0.2)
    assert thin["c"] == 1  # the rule would give it more than it has
    assert thin["a"] / thin["b"] == pytest.approx(raw[0] / raw[1])


def test_a_task_may_be_a_tensor():
    """On a device its value is not read back; `meta` tensors have none."""
    model = fresh_model()
    masks = TaskMasks.draw(model, 3, 0.3, seed=0)
    for task in (torch.tensor(2), torch.tensor([2])):
        assert torch.equal(masks.flat(task), masks.flat(2))
    masks.packed = masks.packed.to("meta")
    masks.apply(model.to("meta"), torch.zeros(1, dtype=torch.long, device="meta"))


def test_what_some_tasks_use():
    masks = TaskMasks.draw(fresh_model(), 4, 0.5, seed=0)
    used = masks.union(torch.tensor([3, 0, 2]))
    for name, found in used.items():
        assert torch.equal(found, masks.of(0)[name] | masks.of(2)[name] | masks.of(3)[name])
    single = masks.union(torch.tensor([1]))
    assert all(torch.equal(single[name], mask) for name, mask in masks.of(1).items())


def test_packed_bits_survive():
    model = fresh_model()
    masks = TaskMasks.draw(model, 2, 0.5, seed=3)
    flat = torch.rand(masks.size) < 0.3
    other = masks.flat(0)
    masks.put(1, flat)
    assert torch.equal(masks.flat(1), flat) and torch.equal(masks.flat(0), other)
    assert masks.packed.shape == (2, math.ceil(masks.size / 8))


def test_a_step_leaves_alone_what_the_tasks_mask_leaves_out(synthetic):
    """With one task per step, whatever its mask zeroes has the same bits afterwards."""
    stage, seen = stage_of(HarmoConfig(sparsity=0.3)), []
    begin, end, predict = stage.begin_step, stage.end_step, stage.forward_pass

    def begin_step(batch):
        seen.append((int(batch.task_index[0]), copy_of(stage.model)))
        begin(batch)

    def forward_pass(model, batch):
        task, before = seen[-1]
        for name, mask in stage.masks.of(task).items():
            weights = model.get_parameter(name) if is_exempt(name) else attribute(model, name)
            if not is_exempt(name):
                assert (weights[~mask] == 0).all()
            assert torch.equal(weights[mask], before[name][mask])
        return predict(model, batch)

    def end_step():
        end()
        task, before = seen[-1]
        moved = 0
        for name, mask in stage.masks.of(task).items():
            weights = dict(stage.model.named_parameters())[name]
            assert torch.equal(weights[~mask], before[name][~mask]), name
            moved += (weights[mask] != before[name][mask]).sum().item()
        assert moved > 0

    stage.begin_step, stage.end_step, stage.forward_pass = begin_step, end_step, forward_pass
    train(stage, data_for(synthetic, 0, sampling="one_task"))
    assert [task for task, _ in seen] == [0, 1, 2, 0, 1]


def test_a_step_equals_one_by_hand(synthetic):
    """Mask, forward, backward, clip, mask the gradient, AdamW, put the old weights back."""
    data = data_for(synthetic, 0, sampling="one_task")
    stage, model = stage_of(HarmoConfig(sparsity=0.3)), fresh_model()
    stage.eval()
    model.eval()
    stage.train = lambda mode=True: stage  # no dropout
    masks = [stage.masks.of(task) for task in range(3)]
    trained = {n: p for n, p in model.named_parameters() if n in masks[0]}
    optimizer = torch.optim.AdamW(trained.values(), lr=FAST.learning_rate, weight_decay=1e-4)
    train(stage, data, steps=3)
    for step in range(3):
        batch, mask = data.batch(step), masks[step]
        before = {n: p.detach().clone() for n, p in trained.items()}
        for name, p in trained.items():
            if not is_exempt(name):
                p.data *= mask[name]
        real = batch.segment.attention_mask[..., None] * batch.action_mask[:, None]
        error = (model(batch.segment, batch.row_prompts()) - batch.segment.actions) ** 2 * real
        optimizer.zero_grad()
        (error.sum(dim=(1, 2)) * batch.loss_weight).sum().backward()
        norm = torch.sqrt(sum(p.grad.square().sum() for p in trained.values()))
        for name, p in trained.items():
            p.grad *= min(1, FAST.gradient_clip / (norm.item() + 1e-6))
            if not is_exempt(name):
                p.grad *= mask[name]
        optimizer.param_groups[0]["lr"] = FAST.learning_rate * min((step + 1) / 2, 1)
        optimizer.step()
        for name, p in trained.items():
            p.data = torch.where(mask[name], p.data, before[name])
    compare(stage, trained)


def test_a_mixed_step_equals_one_by_hand(synthetic):
    """Each task's own masked copy and loss; masked gradients are averaged, clipped, applied."""
    data = data_for(synthetic, 0, sampling="mixed", batch_size=7, tasks_per_batch=2)
    stage, whole = stage_of(HarmoConfig(sparsity=0.5)), fresh_model().eval()
    stage.eval()
    stage.train = lambda mode=True: stage  # no dropout
    masks = [stage.masks.of(task) for task in range(3)]
    weights = {n: p.detach().clone() for n, p in whole.named_parameters() if n in masks[0]}
    first, second = ({n: torch.zeros_like(w) for n, w in weights.items()} for _ in range(2))
    trainer = train(stage, data, steps=4)
    for step in range(4):
        batch, tasks = data.batch(step), [2 * step % 3, (2 * step + 1) % 3]
        assert batch.task_index.tolist() == 4 * tasks[:1] + 3 * tasks[1:]
        gradient = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for task in tasks:
            model, rows = fresh_model().eval(), batch.task_index == task
            named = {n: p for n, p in model.named_parameters() if n in weights}
            for name, p in named.items():
                p.data = weights[name].clone()
                if not is_exempt(name):
                    p.data[~masks[task][name]] = 0
            segment = batch.segment.take(rows)
            actions = model(segment, batch.row_prompts().take(rows))
            real = segment.attention_mask[..., None] * batch.action_mask[rows][:, None]
            loss = ((actions - segment.actions) ** 2)[real.bool()].mean()
            found = torch.autograd.grad(loss, list(named.values()))
            for name, part in zip(named, found, strict=True):
                used = torch.ones_like(part) if is_exempt(name) else masks[task][name].float()
                gradient[name] += part * used / 2
        norm = math.sqrt(sum(g.square().sum().item() for g in gradient.values()))
        rate = FAST.learning_rate * min((step + 1) / 2, 1)
        kept = 0
        for name, g in gradient.items():
            g = g * min(1, FAST.gradient_clip / (norm + 1e-6))
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            mean, square = (
                moment / (1 - beta ** (step + 1))
                for moment, beta in ((first[name], 0.9), (second[name], 0.999))
            )
            moved = weights[name] * (1 - rate * 1e-4) - rate * mean / (square.sqrt() + 1e-8)
            used = masks[tasks[0]][name] | masks[tasks[1]][name]
            weights[name] = torch.where(used, moved, weights[name])
            kept += (~used).sum().item()
        assert kept > 100
    compare(stage, weights)
    state = trainer.optimizers[0].state
    for name, p in stage.trainable().items():
        if not name.endswith("c_attn.bias"):
            torch.testing.assert_close(state[p]["exp_avg"], first[name], rtol=1e-3, atol=1e-6)
            torch.testing.assert_close(state[p]["exp_avg_sq"], second[name], rtol=1e-3, atol=1e-8)


def compare(stage, trained):
    """Compare the weights of a stage with those trained by hand.

    Where a gradient is nearly AdamW's epsilon, its rounding changes a step by a part of it.
    """
    for name, p in trained.items():
        found = stage.trainable()[name]
        if name.endswith("c_attn.bias"):
            # Softmax takes no notice of a key's bias: its gradient is rounding, and AdamW's step
            # from zero over zero.
            (q, _, v), (found_q, _, found_v) = p.chunk(3), found.chunk(3)
            p, found = torch.cat((q, v)), torch.cat((found_q, found_v))
        torch.testing.assert_close(found, p, rtol=1e-4, atol=FAST.learning_rate / 100)


@pytest.mark.parametrize(
    ("importance", "memory"), [("gradient", 2**30), ("weight", 2**30), ("gradient", 1)]
)
def test_revision_equals_a_naive_one(synthetic, monkeypatch, importance, memory):
    monkeypatch.setattr(harmodt, "gradient_memory", lambda *_: memory)
    harmo = HarmoConfig(sparsity=0.3, gamma=10, importance=importance)
    data = data_for(synthetic, 0)
    stage = stage_of(harmo)
    stage.eval()
    before = [stage.masks.flat(task) for task in range(3)]
    weights = copy_of(stage.model)
    gradients = []
    for task in range(3):
        model = fresh_model().eval()
        named = maskable(model)
        for name, mask in stage.masks.of(task).items():
            if not is_exempt(name):
                named[name].data *= mask
        batch = data.probe_batch(task, 1)
        real = batch.segment.attention_mask[..., None] * batch.action_mask[:, None]
        error = (model(batch.segment, batch.row_prompts()) - batch.segment.actions) ** 2 * real
        (error.sum(dim=(1, 2)) * batch.loss_weight).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in named.values()]))
    stage.revise(data, 1, 15)
    theta = torch.cat([p.detach().flatten() for p in stage.trainable().values()])
    for task, g in enumerate(gradients):
        agreement = g * sum(gradients) / 3
        value = 10 * agreement + (g**2 if importance == "gradient" else theta.abs())
        kept = np.flatnonzero(before[task])
        pruned = np.flatnonzero(~before[task])
        down = kept[np.argsort(value[kept].numpy(), kind="stable")[:15]]
        up = pruned[np.argsort(-agreement[pruned].numpy(), kind="stable")[:15]]
        after = stage.masks.flat(task)
        assert after.sum() == before[task].sum()
        assert set(np.flatnonzero(before[task] & ~after)) == set(down)
        assert set(np.flatnonzero(~before[task] & after)) == set(up)
    assert all(torch.equal(t, stage.model.state_dict()[n]) for n, t in weights.items())


def test_exchange_takes_the_lowest_and_the_highest():
    mask = torch.tensor([1, 1, 1, 0, 0, 0]).bool()
    agreement = torch.tensor([1.0, -1.0, 0.0, 5.0, 7.0, -9.0])
    importance = torch.tensor([0.0, 9.0, 1.0, 0.0, 0.0, 0.0])
    assert exchange(mask, agreement, importance, 0.0, 1).tolist() == [0, 1, 1, 0, 1, 0]
    assert exchange(mask, agreement, importance, 10.0, 1).tolist() == [1, 0, 1, 0, 1, 0]
    assert exchange(mask, agreement, importance, 10.0, 99).tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(exchange(mask, agreement, importance, 1.0, 0), mask)


def test_density_stays_through_training(synthetic):
    stage = stage_of()
    before = [stage.masks.flat(task) for task in range(3)]
    train(stage, data_for(synthetic, 0))
    for task, mask in enumerate(before):
        assert stage.masks.flat(task).sum() == mask.sum()
        assert not torch.equal(stage.masks.flat(task), mask)


def test_exchanges_follow_a_cosine():
    stage = stage_of(HarmoConfig(max_changed=100))
    stage.config = replace(FAST, max_steps=1000)
    counts = [stage.exchanged(step) for step in (0, 250, 500, 750, 1000)]
    assert counts == pytest.approx([0, 50, 100, 50, 0], abs=1)


def test_evaluation_applies_each_tasks_mask(data, tmp_path):
    run = tmp_path / "run"
    extra = ["method=harmodt", "baseline.max_steps=4", f"data={data}", f"run={run}"]
    assert main(["train", *QUICK, *extra, "loader.sampling=one_task"]) == 0
    agent = m3dt.load(run)
    for index, task in enumerate(agent.context.tasks):
        masked = dict(agent.model_for(task).named_parameters())
        for name, mask in agent.masks.of(index).items():
            whole = dict(agent.model.named_parameters())[name]
            expected = whole if is_exempt(name) else whole * mask
            assert torch.equal(masked[name], expected), name


@pytest.mark.parametrize("sampling", ["one_task", "mixed"])
def test_a_step_can_be_traced_as_one_graph(synthetic, sampling):
    """Nothing in it makes torch.compile give a part back to Python."""
    gradients = []
    for backend in (None, "aot_eager"):
        stage = stage_of()
        stage.eval()
        losses = stage.step_losses
        if backend:
            losses = torch.compile(losses, fullgraph=True, backend=backend, dynamic=False)
        losses(data_for(synthetic, 0, sampling=sampling).batch(0)).sum().backward()
        gradients.append([p.grad for p in stage.trainable().values()])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_one_task_in_a_mixed_batch_is_the_step_of_one_task(synthetic):
    weights = []
    for loader in ({"sampling": "one_task"}, {"sampling": "mixed", "tasks_per_batch": 1}):
        stage = stage_of()
        train(stage, data_for(synthetic, 0, **loader))
        weights.append([*stage.model.state_dict().values(), stage.masks.packed])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_validation_takes_each_tasks_masked_model(synthetic):
    data = data_for(synthetic, 0, sampling="mixed", validation_trajectories=1)
    stage = stage_of()
    stage.config = replace(FAST, validate_every=5)
    trainer = train(stage, data, check_val_every_n_epoch=None, val_check_interval=5)
    losses = []
    for task in range(3):
        model = copy.deepcopy(stage.model).eval()
        stage.masks.apply(model, task)
        batch = data.gather(data.plan.validation(task))
        real = (batch.segment.attention_mask[..., None] * batch.action_mask[:, None]).bool()
        actions = model(batch.segment, batch.row_prompts())
        losses.append(((actions - batch.segment.actions) ** 2)[real].mean().item())
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("steps", [600, 4000, 100_000])
def test_a_share_is_exchanged_however_long_the_training_is(steps):
    stage = stage_of(HarmoConfig(update_every=500, exchanged_share=0.07))
    stage.config = replace(FAST, max_steps=steps)
    counts = [stage.exchanged(step) for step in range(500, steps, 500)]
    assert sum(counts) == pytest.approx(0.07 * stage.masks.size, abs=len(counts) / 2)
    if steps == 100_000:  # the shape of the original's
        stage.harmo = HarmoConfig(max_changed=100_000)
        shape = np.array([stage.exchanged(step) for step in range(500, steps, 500)])
        assert np.abs(counts - shape * sum(counts) / shape.sum()).max() < 1


def test_the_papers_run_exchanges_what_it_did():
    """Up to 100 parameters, half of that on average, at each of 2,000 updates."""
    stage = stage_of(HarmoConfig())
    stage.config = replace(FAST, max_steps=1_000_000)
    counts = [stage.exchanged(step) for step in range(500, 1_000_000, 500)]
    assert max(counts) == 100 and len(counts) == 1999
    assert sum(counts) == pytest.approx(100_000, rel=0.02)


def test_a_share_without_an_update_is_refused(data, tmp_path, capsys):
    extra = ["method=harmodt", f"data={data}", f"run={tmp_path / 'run'}", "baseline.max_steps=500"]
    assert main(["train", *QUICK, *extra, "harmodt.exchanged_share=0.07"]) == 2
    error = capsys.readouterr().err
    assert "harmodt.exchanged_share=0.07: no update" in error and "harmodt.update_every" in error


@BATCHES
def test_killed_and_resumed_keeps_its_masks(data, tmp_path, sampling):
    """kill -9 between two revisions: weights and masks end in the same bits."""
    settings = ["method=harmodt", "baseline.max_steps=60", "baseline.checkpoint_every=7"]
    settings += ["harmodt.update_every=5", f"loader.sampling={sampling}", f"data={data}"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["train", *QUICK, *settings, f"run={whole}"]) == 0
    words = ["train", *QUICK, *settings, f"run={killed}"]
    kill_after(words, lambda: list((killed / "checkpoints").rglob("step*.ckpt")))
    assert Registry(killed).find("baseline", "harmodt") is None
    assert main(["train", *QUICK, *settings, f"run={killed}"]) == 0
    files = [Registry(run).get("baseline", "harmodt").files for run in (whole, killed)]
    assert files[0] == files[1]


@BATCHES
def test_two_processes_equal_one(data, tmp_path, sampling):
    """DDP over gloo with the same global batch: the same masks, and weights but for rounding.

    Of the mixed batch's rows, 2, 1 and 1 of three tasks, the first process has 1, 1 and none.
    """
    settings = ["method=harmodt", "baseline.max_steps=12", "harmodt.update_every=4"]
    settings += [f"loader.sampling={sampling}", "model.dropout=0", f"data={data}"]
    settings += ["loader.batch_size=4"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(["train", *QUICK, *settings, f"run={alone}"]) == 0
    two = [f"run={together}", "trainer.devices=2", "trainer.strategy=ddp"]
    result = ended(["train", *QUICK, *settings, *two])
    assert result.returncode == 0, result.output[-3000:]
    registries = [Registry(run) for run in (alone, together)]
    entries = [registry.get("baseline", "harmodt") for registry in registries]
    for stem, atol in (("weights", 1e-4), ("masks", 0)):
        one, other = (r.tensors(e, stem) for r, e in zip(registries, entries, strict=True))
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=atol)
